//! File contents from a seed: text-like words mixed with incompressible runs, so that
//! gzip finds about as much in them as in the files of real images.

use std::io::{self, Read};

/// A small, fast, seeded generator (`SplitMix64`): the images are the same on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`; 0 when `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// One of the values, or none of an empty slice.
    pub(crate) fn pick<'a, T>(&mut self, values: &'a [T]) -> Option<&'a T> {
        let limit = u64::try_from(values.len()).unwrap_or(u64::MAX);
        usize::try_from(self.below(limit))
            .ok()
            .and_then(|index| values.get(index))
    }
}

/// The words of which the text-like part is made.
#[derive(Debug)]
pub(crate) struct Vocabulary(Vec<Vec<u8>>);

impl Vocabulary {
    const WORDS: u64 = 256;

    pub(crate) fn new() -> Vocabulary {
        let mut random = Random::new(0x766f_6361_6275_6c61);
        let letters = b"etaoinshrdlcumwfgypbvk_.0123/-=";
        let word = |random: &mut Random| {
            let length = 2 + random.below(9);
            let mut word: Vec<u8> = (0..length)
                .filter_map(|_| random.pick(letters).copied())
                .collect();
            word.push(if random.below(9) == 0 { b'\n' } else { b' ' });
            word
        };
        Vocabulary((0..Self::WORDS).map(|_| word(&mut random)).collect())
    }

    /// Frequent words come often, rare ones seldom: the smaller of two draws.
    fn word(&self, random: &mut Random) -> &[u8] {
        let draw = random.next();
        let (first, second) = (draw % Self::WORDS, (draw >> 32) % Self::WORDS);
        let index = usize::try_from(first.min(second)).unwrap_or(0);
        self.0.get(index).map_or(&[], Vec::as_slice)
    }
}

/// Exactly `left` bytes of content, as a stream.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    vocabulary: &'a Vocabulary,
    random: Random,
    /// Of 1000 records, so many are runs of random bytes.
    noise: u64,
    left: u64,
    made: Vec<u8>,
    taken: usize,
}

impl<'a> Content<'a> {
    const BLOCK: usize = 64 * 1024;

    pub(crate) fn new(vocabulary: &'a Vocabulary, seed: u64, noise: u64, length: u64) -> Self {
        Content {
            vocabulary,
            random: Random::new(seed),
            noise,
            left: length,
            made: Vec::with_capacity(Self::BLOCK + 1024),
            taken: 0,
        }
    }

    fn make_block(&mut self) {
        self.made.clear();
        self.taken = 0;
        while self.made.len() < Self::BLOCK {
            if self.random.below(1000) < self.noise {
                for _ in 0..8 + self.random.below(48) {
                    self.made
                        .extend_from_slice(&self.random.next().to_le_bytes());
                }
            } else {
                for _ in 0..8 + self.random.below(48) {
                    self.made
                        .extend_from_slice(self.vocabulary.word(&mut self.random));
                }
            }
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken >= self.made.len() {
            self.make_block();
        }
        let ready = self.made.get(self.taken..).unwrap_or_default();
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = (&*ready).read(buffer.get_mut(..wanted).unwrap_or_default())?;
        self.taken += count;
        self.left -= u64::try_from(count).unwrap_or(0);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_depends_on_the_seed_alone_and_has_the_length_asked_for() {
        let vocabulary = Vocabulary::new();
        let bytes = |seed, length| {
            let mut all = Vec::new();
            Content::new(&vocabulary, seed, 100, length)
                .read_to_end(&mut all)
                .unwrap();
            all
        };
        assert_eq!(bytes(1, 200_000), bytes(1, 200_000));
        assert_ne!(bytes(1, 200_000), bytes(2, 200_000));
        assert_eq!(bytes(3, 0).len(), 0);
        assert_eq!(bytes(3, 65_537).len(), 65_537);
    }
}

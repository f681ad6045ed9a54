//! Event logs that go with a TDX quote: the firmware's (CCEL) and the attestation agent's, joined.
//!
//! Both are TCG2 logs ("Crypto Agile Log Entry Format" of the TCG EFI protocol): a head that names
//! the digests, then entries. The firmware's lies in a region of memory that it does not fill.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The evidence of `tdx` for a quote and the logs of the firmware (`CCEL`) and of the attestation
/// agent, as far as there are any, for an [`Attester`](crate::Attester) that gets them by its own
/// way.
///
/// # Errors
/// [`EventLogError`], if the firmware's log is not one.
pub fn tdx_evidence(
    quote: &[u8],
    firmware_log: Option<&[u8]>,
    agent_log: Option<&[u8]>,
) -> Result<Value, EventLogError> {
    let log = joined(firmware_log, agent_log)?;
    Ok(json!({
        "cc_eventlog": log.map(|log| STANDARD.encode(log)),
        "quote": STANDARD.encode(quote),
    }))
}

/// The log to send: the firmware's up to its end, the agent's, and a mark. None if there is neither.
///
/// # Errors
/// [`EventLogError`], if the firmware's log is not one. The agent's is passed on as it is.
fn joined(firmware: Option<&[u8]>, agent: Option<&[u8]>) -> Result<Option<Vec<u8>>, EventLogError> {
    let log = match firmware {
        Some(region) => region.get(..length(region)?).unwrap_or(region).to_vec(),
        None if agent.is_none() => return Ok(None),
        None => head(),
    };
    Ok(Some([&log, agent.unwrap_or_default(), &END].concat()))
}

/// Why the event log of the firmware is not one. The firmware, which is the host's, is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// It does not begin with the event that names its digests.
    #[error("expected \"Spec ID Event03\" at the start of the firmware's event log")]
    Head,
    /// An entry has a digest of a kind that the head does not name.
    #[error("digest of unknown algorithm {algorithm:#06x} at byte {position} of the event log")]
    Algorithm {
        /// TCG algorithm identifier.
        algorithm: u16,
        /// Where the entry begins.
        position: usize,
    },
    /// An entry goes on beyond the end.
    #[error("entry at byte {position} of the event log is longer than the log")]
    Truncated {
        /// Where the entry begins.
        position: usize,
    },
}

const END: [u8; 8] = [0xff; 8];
const NOTHING: [u8; 8] = [0; 8];
const SIGNATURE: &[u8] = b"Spec ID Event03\0";
const EV_NO_ACTION: u32 = 3;
const SHA384: (u16, u16) = (0x000c, 48);
const SM3: (u16, u16) = (0x0012, 32);

/// How much of `region` is log: up to a mark of the end, or all of it.
fn length(region: &[u8]) -> Result<usize, EventLogError> {
    let mut reader = Reader {
        bytes: region,
        position: 0,
    };
    let sizes = reader.head().ok_or(EventLogError::Head)?;
    loop {
        let position = reader.position;
        let rest = region.get(position..).unwrap_or_default();
        if rest.is_empty() || rest.starts_with(&END) || rest.starts_with(&NOTHING) {
            return Ok(position);
        }
        reader.entry(&sizes)?;
    }
}

/// A head without entries, for an agent's log that has no firmware's before it.
fn head() -> Vec<u8> {
    let mut event = SIGNATURE.to_vec();
    event.extend(0_u32.to_le_bytes());
    // Version 2.0, errata 0, and numbers of 64 bits.
    event.extend([0, 2, 0, 2]);
    event.extend(2_u32.to_le_bytes());
    for (algorithm, size) in [SHA384, SM3] {
        event.extend(algorithm.to_le_bytes());
        event.extend(size.to_le_bytes());
    }
    event.push(0);
    let mut head = 0_u32.to_le_bytes().to_vec();
    head.extend(EV_NO_ACTION.to_le_bytes());
    head.extend([0; 20]);
    head.extend(u32::try_from(event.len()).unwrap_or_default().to_le_bytes());
    head.extend(event);
    head
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// The sizes of digests by algorithm, from `TCG_PCR_EVENT` with `TCG_EfiSpecIdEvent`.
    fn head(&mut self) -> Option<BTreeMap<u16, u16>> {
        // Register and type, and a digest of SHA-1, all without meaning.
        self.take(8 + 20)?;
        let length = self.length()?;
        let mut event = Reader {
            bytes: self.take(length)?,
            position: 0,
        };
        let known = event.take(SIGNATURE.len())? == SIGNATURE;
        event.take(8).filter(|_| known)?;
        let count = event.length()?;
        // The bytes end long before the largest count.
        (0..count)
            .map(|_| Some((event.u16()?, event.u16()?)))
            .collect()
    }

    /// One `TCG_PCR_EVENT2`.
    fn entry(&mut self, sizes: &BTreeMap<u16, u16>) -> Result<(), EventLogError> {
        let position = self.position;
        let truncated = || EventLogError::Truncated { position };
        self.take(8).ok_or_else(truncated)?;
        for _ in 0..self.length().ok_or_else(truncated)? {
            let algorithm = self.u16().ok_or_else(truncated)?;
            let size = sizes.get(&algorithm).ok_or(EventLogError::Algorithm {
                algorithm,
                position,
            })?;
            self.take(usize::from(*size)).ok_or_else(truncated)?;
        }
        let length = self.length().ok_or_else(truncated)?;
        self.take(length).map(|_| ()).ok_or_else(truncated)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(count)?;
        let taken = self.bytes.get(self.position..end)?;
        self.position = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.try_into().ok()?;
        Some(u16::from_le_bytes(bytes))
    }

    fn length(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(register: u32, event: &[u8]) -> Vec<u8> {
        let mut entry = register.to_le_bytes().to_vec();
        entry.extend(6_u32.to_le_bytes());
        entry.extend(1_u32.to_le_bytes());
        entry.extend(SHA384.0.to_le_bytes());
        entry.extend([7; 48]);
        entry.extend(u32::try_from(event.len()).unwrap().to_le_bytes());
        entry.extend(event);
        entry
    }

    fn log() -> Vec<u8> {
        [head(), entry(1, b"firmware"), entry(2, &[0; 40])].concat()
    }

    #[test]
    fn head_has_the_length_that_verifiers_know() {
        assert_eq!(head().len(), 69);
        assert_eq!(length(&head()), Ok(69));
    }

    #[test]
    fn firmware_log_is_cut_at_its_end_and_joined_with_the_agents() {
        let agent = entry(4, b"AAEL");
        let expected = [log(), agent.clone(), END.to_vec()].concat();
        for unused in [&[][..], &[0xff; 100], &[0; 4096], &[0xff; 8]] {
            let region = [&log(), unused].concat();
            let found = joined(Some(&region), Some(&agent)).unwrap();
            assert_eq!(found.as_deref(), Some(&*expected));
        }
        let alone = joined(Some(&log()), None).unwrap().unwrap();
        assert_eq!(alone, [log(), END.to_vec()].concat());
    }

    #[test]
    fn digests_of_every_algorithm_that_the_head_names_are_passed_over() {
        let mut entry = 1_u32.to_le_bytes().to_vec();
        entry.extend(6_u32.to_le_bytes());
        entry.extend(2_u32.to_le_bytes());
        for (algorithm, size) in [SM3, SHA384] {
            entry.extend(algorithm.to_le_bytes());
            entry.extend(vec![0xff; usize::from(size)]);
        }
        entry.extend(0_u32.to_le_bytes());
        let log = [head(), entry].concat();
        assert_eq!(length(&[&log, &END[..]].concat()), Ok(log.len()));
    }

    #[test]
    fn agents_log_without_firmware_gets_a_head() {
        let agent = entry(4, b"AAEL");
        let found = joined(None, Some(&agent)).unwrap().unwrap();
        assert_eq!(found, [head(), agent, END.to_vec()].concat());
        assert_eq!(joined(None, None), Ok(None));
    }

    #[test]
    fn log_that_is_none_is_refused_with_its_fault() {
        assert_eq!(length(b""), Err(EventLogError::Head));
        assert_eq!(length(&[0xff; 200]), Err(EventLogError::Head));
        let mut foreign = log();
        foreign[69 + 12] = 0x0b;
        let fault = EventLogError::Algorithm {
            algorithm: 0x000b,
            position: 69,
        };
        assert_eq!(length(&foreign), Err(fault));
    }

    #[test]
    fn every_part_of_a_log_is_either_shorter_or_truncated() {
        let whole = log();
        let second = 69 + entry(1, b"firmware").len();
        for end in 0..whole.len() {
            let expected = match end {
                0..69 => Err(EventLogError::Head),
                _ if end == 69 || end == second => Ok(end),
                _ if end < second => Err(EventLogError::Truncated { position: 69 }),
                _ => Err(EventLogError::Truncated { position: second }),
            };
            assert_eq!(length(&whole[..end]), expected, "{end} bytes");
        }
    }

    #[test]
    fn no_byte_of_a_log_does_more_than_fail() {
        let whole = [log(), vec![0xff; 64]].concat();
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut mutated = whole.clone();
                mutated[at] = byte;
                if let Ok(length) = length(&mutated) {
                    assert!(length <= mutated.len());
                }
            }
        }
    }
}

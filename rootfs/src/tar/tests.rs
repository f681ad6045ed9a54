//! The archive reader by itself; `tests/it` has every format and attack as a whole layer.

use super::*;

/// A ustar header of a file with `size` bytes.
fn header(name: &[u8], size: u64) -> [u8; BLOCK] {
    let mut block = ZEROS;
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[148..156].copy_from_slice(b"        ");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[test]
fn content_not_read_is_skipped_with_its_padding() {
    let archive = [
        &header(b"a", 700)[..],
        &[1; 1024],
        &header(b"b", 3),
        b"abc",
        &[0; 509],
    ]
    .concat();
    let limits = Limits::default();
    // A source of odd pieces has every header and file cross a border.
    let source = std::io::BufReader::with_capacity(77, archive.as_slice());
    let mut archive = Archive::new(source, &limits);
    assert_eq!(archive.next_entry().unwrap().unwrap().path.as_bytes(), b"a");
    assert_eq!(archive.next_entry().unwrap().unwrap().path.as_bytes(), b"b");
    let mut content = Vec::new();
    let collect = |piece: &[u8]| {
        content.extend_from_slice(piece);
        Ok(())
    };
    archive.copy_content(collect).unwrap();
    assert_eq!(content, b"abc");
    assert_eq!(archive.next_entry().unwrap(), None);
}

#[test]
fn a_cut_within_an_entry_says_where() {
    let archive = [&header(b"a", 700)[..], &[1; 1024]].concat();
    let limits = Limits::default();
    for cut in [1, 511, 513, 1000, 1211] {
        let mut archive = Archive::new(&archive[..cut], &limits);
        let mut read = || -> Result<(), Error> {
            while archive.next_entry()?.is_some() {}
            Ok(())
        };
        let error = read().map(|()| cut).unwrap_err();
        let cut = u64::try_from(cut).unwrap();
        assert!(
            matches!(error, Error::Truncated { offset } if offset == cut),
            "{cut}: {error:?}"
        );
    }
}

/// As umoci 0.4 leaves it; that nothing is missing is for the digests to say.
#[test]
fn an_archive_may_end_with_the_content_of_its_last_file() {
    let archive = [&header(b"a", 700)[..], &[1; 1024]].concat();
    let limits = Limits::default();
    for cut in [1212, 1300, 1535, 1536] {
        let mut archive = Archive::new(&archive[..cut], &limits);
        assert_eq!(archive.next_entry().unwrap().unwrap().path.as_bytes(), b"a");
        assert_eq!(archive.next_entry().unwrap(), None, "{cut}");
    }
}

#[test]
fn drains_what_follows_the_end() {
    let archive = [&header(b"a", 0)[..], &[0; 1024], b"trailing"].concat();
    let limits = Limits::default();
    let mut source = archive.as_slice();
    let mut archive = Archive::new(&mut source, &limits);
    while archive.next_entry().unwrap().is_some() {}
    archive.drain().unwrap();
    assert_eq!(source, b"");
}

//! A reference that is read prints as what reads the same, and is by tag or by digest.
#![no_main]

use fuzz::assert_printable;
use libfuzzer_sys::fuzz_target;
use policy::{ImageRef, Reference, ReferenceError};

fuzz_target!(|text: &str| {
    let strict = text.parse::<ImageRef>();
    let image = match ImageRef::parse_edge(text) {
        Ok(image) => image,
        Err(error) => {
            assert_eq!(strict, Err(error.clone()));
            return assert_printable(&error);
        }
    };
    match strict {
        Ok(strict) => assert_eq!(strict, image),
        Err(error) => assert_eq!(error, ReferenceError::TagAndDigest),
    }
    assert!(image.tag().is_some() != image.digest().is_some());
    let printed = image.to_string();
    assert_eq!(printed.parse::<ImageRef>().unwrap().to_string(), printed);
    assert_eq!(ImageRef::parse_edge(&image.as_asked()), Ok(image));
    let reference = Reference::parse(text).unwrap();
    assert_eq!(
        Reference::parse_qualified(&reference.to_string()),
        Ok(reference)
    );
});

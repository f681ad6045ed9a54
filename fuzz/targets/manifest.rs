//! A document has one reading, whatever type it is served under, and its own digest alone.
#![no_main]

use fuzz::assert_printable;
use fuzz::honest::reference;
use libfuzzer_sys::fuzz_target;
use policy::{
    DOCKER_LIST, DOCKER_MANIFEST, Digest, Document, ImageRef, OCI_INDEX, OCI_MANIFEST, Platform,
    parse_attachments,
};

fuzz_target!(|data: &[u8]| {
    let types = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    let types = types.into_iter().map(Some).chain([None]);
    let parse = |kind| Document::parse(&reference(), kind, data.to_vec());
    let read = types.filter_map(|kind| {
        parse(kind)
            .inspect_err(|error| assert_printable(error))
            .ok()
    });
    let read: Vec<Document> = read.collect();
    let indexes = read
        .iter()
        .filter(|read| matches!(read, Document::Index(_)));
    assert!([0, read.len()].contains(&indexes.count()));
    for document in read {
        let digest = match document {
            Document::Manifest(manifest) => *manifest.digest(),
            Document::Index(index) => {
                if let Ok(chosen) = index.choose(&Platform::host()) {
                    assert!(index.entries().contains(&chosen));
                }
                *index.digest()
            }
        };
        assert!(digest.matches(data));
    }
    if parse_attachments(Some(OCI_MANIFEST), data).is_ok() {
        assert!(Document::parse(&reference(), Some(OCI_MANIFEST), data.to_vec()).is_ok());
    }
    let other = format!("registry.example/app@{}", Digest::sha256_of(b"other"));
    let other: ImageRef = other.parse().unwrap();
    assert!(Document::parse(&other, Some(OCI_MANIFEST), data.to_vec()).is_err());
});

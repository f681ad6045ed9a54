//! containers-registries.d(5): where the simple-signing signatures of an image are stored.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::digest::Digest;
use crate::printable::printable;
use crate::reference::ImageRef;
use crate::yaml::{Yaml, YamlProblem};

/// What registries.d files say: for each namespace where signatures are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookaside {
    default: Option<Namespace>,
    docker: BTreeMap<String, Namespace>,
}

impl Lookaside {
    /// Reads files by name and content, as they stand in one directory.
    ///
    /// A namespace may be in one of them only. Unknown keys are not looked at, as in the reference
    /// implementation; those that are known must be what they should be.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, LookasideError> {
        let mut all = Self::default();
        for (name, content) in files {
            let added = Self::file(content).and_then(|file| all.add(file));
            added.map_err(|problem| LookasideError {
                file: name.to_owned(),
                problem,
            })?;
        }
        Ok(all)
    }

    /// The base of the addresses of an image's signatures: as configured, and the repository.
    pub fn base(&self, image: &ImageRef) -> Option<String> {
        let configured = self.configured(image)?;
        Some(before_query(
            configured,
            &format!("/{}", image.repository()),
        ))
    }

    /// The lookaside as it is written for the most specific namespace that has one.
    pub fn configured(&self, image: &ImageRef) -> Option<&str> {
        self.option(image, |namespace| namespace.lookaside.as_deref())
    }

    /// Whether sigstore attachments are looked up, if that is said for the image.
    pub fn use_sigstore_attachments(&self, image: &ImageRef) -> Option<bool> {
        self.option(image, |namespace| namespace.use_sigstore_attachments)
    }

    /// The address of the signature with the number `number`, counted from 1.
    pub fn signature(base: &str, subject: &Digest, number: usize) -> String {
        let (algorithm, hex) = (subject.algorithm(), subject.hex());
        before_query(base, &format!("@{algorithm}={hex}/signature-{number}"))
    }

    /// Each option is looked up by itself: a namespace that does not have it is passed over.
    fn option<'s, T>(
        &'s self,
        image: &ImageRef,
        option: impl Fn(&'s Namespace) -> Option<T>,
    ) -> Option<T> {
        std::iter::once(image.policy_identity())
            .chain(image.policy_namespaces())
            .filter_map(|name| self.docker.get(&name))
            .chain(&self.default)
            .find_map(option)
    }

    fn file(content: &[u8]) -> Result<Self, LookasideProblem> {
        let mut file = Self::default();
        for (key, value) in mapping("the document", &Yaml::parse(content)?)? {
            match key.as_str() {
                "default-docker" if !value.is_null() => {
                    file.default = Some(Namespace::read(key, value)?);
                }
                "docker" => {
                    for (name, value) in mapping(key, value)? {
                        let namespace = Namespace::read(name, value)?;
                        file.docker.insert(name.clone(), namespace);
                    }
                }
                _ => {}
            }
        }
        Ok(file)
    }

    fn add(&mut self, file: Self) -> Result<(), LookasideProblem> {
        let twice = |namespace: &str| LookasideProblem::Twice {
            namespace: namespace.to_owned(),
        };
        if file.default.is_some() && self.default.is_some() {
            return Err(twice("default-docker"));
        }
        self.default = self.default.take().or(file.default);
        for (name, namespace) in file.docker {
            if self.docker.contains_key(&name) {
                return Err(twice(&name));
            }
            self.docker.insert(name, namespace);
        }
        Ok(())
    }
}

/// A fault in a registries.d file. Whoever wrote it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}: {problem}")]
pub struct LookasideError {
    file: String,
    problem: LookasideProblem,
}

impl LookasideError {
    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What is wrong in it.
    pub fn problem(&self) -> &LookasideProblem {
        &self.problem
    }
}

/// What can be wrong with a registries.d file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LookasideProblem {
    /// The YAML is not as it should be.
    #[error("{0}")]
    Yaml(#[from] YamlProblem),
    /// A value has another type.
    #[error("{} should be {expected}", printable(key))]
    Type {
        /// The key.
        key: String,
        /// The type wanted.
        expected: &'static str,
    },
    /// A namespace is in two files.
    #[error("{} is already in another file", printable(namespace))]
    Twice {
        /// The namespace.
        namespace: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Namespace {
    lookaside: Option<String>,
    use_sigstore_attachments: Option<bool>,
}

impl Namespace {
    fn read(name: &str, value: &Yaml) -> Result<Self, LookasideProblem> {
        let members = mapping(name, value)?;
        let member = |key: &str| {
            let found = members.iter().find(|(known, _)| known == key);
            found
                .map(|(_, value)| value)
                .filter(|value| !value.is_null())
        };
        let text = |key: &str| -> Result<Option<&str>, LookasideProblem> {
            let wrong = || wrong_type(&format!("{key} of {name}"), "a text");
            let text = member(key).map(|value| value.text().ok_or_else(wrong));
            // An empty one says the same as none.
            Ok(text.transpose()?.filter(|text| !text.is_empty()))
        };
        // Read both, so that a fault in the one that does not count is still a fault.
        let (lookaside, sigstore) = (text("lookaside")?, text("sigstore")?);
        let attachments = "use-sigstore-attachments";
        let wrong = || wrong_type(&format!("{attachments} of {name}"), "true or false");
        Ok(Self {
            lookaside: lookaside.or(sigstore).map(str::to_owned),
            use_sigstore_attachments: member(attachments)
                .map(|value| value.truth().ok_or_else(wrong))
                .transpose()?,
        })
    }
}

/// The members of a mapping; null has none.
fn mapping<'y>(key: &str, value: &'y Yaml) -> Result<&'y [(String, Yaml)], LookasideProblem> {
    if value.is_null() {
        return Ok(&[]);
    }
    value.members().ok_or_else(|| wrong_type(key, "a mapping"))
}

fn wrong_type(key: &str, expected: &'static str) -> LookasideProblem {
    LookasideProblem::Type {
        key: key.to_owned(),
        expected,
    }
}

/// Appends to the path of an address.
fn before_query(address: &str, more: &str) -> String {
    let end = address.find(['?', '#']).unwrap_or(address.len());
    let (path, query) = address.split_at(end);
    format!("{path}{more}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(files: &[(&str, &str)]) -> Result<Lookaside, LookasideError> {
        let files = files.iter().map(|(name, text)| (*name, text.as_bytes()));
        Lookaside::parse(files)
    }

    #[test]
    fn every_option_is_looked_up_by_itself() {
        let lookaside = parse(&[(
            "a.yaml",
            "default-docker:\n use-sigstore-attachments: false\n\
             docker:\n example.com:\n  sigstore: http://old/p?q\n example.com/ns:\n  lookaside: ''\n",
        )]);
        let lookaside = lookaside.unwrap();
        let image: ImageRef = "example.com/ns/app:1".parse().unwrap();
        assert_eq!(lookaside.use_sigstore_attachments(&image), Some(false));
        let base = lookaside.base(&image).unwrap();
        assert_eq!(base, "http://old/p/ns/app?q");
        let subject = Digest::sha256_of(b"");
        let expected = format!("http://old/p/ns/app@sha256={}/signature-2?q", subject.hex());
        assert_eq!(Lookaside::signature(&base, &subject, 2), expected);
        let other: ImageRef = "example.org/app:1".parse().unwrap();
        assert_eq!(lookaside.base(&other), None);
    }

    /// Found by fuzzing.
    #[test]
    fn a_fault_is_told_in_one_line() {
        let error = parse(&[("a.yaml", "docker:\n \"a\\x12b\": 1\n")]).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("a b should be a mapping"), "{text}");
    }

    #[test]
    fn refuses_what_is_not_what_it_should_be() {
        let once = "docker:\n a.io:\n  lookaside: file:///a\n";
        let twice = |namespace: &str| LookasideProblem::Twice {
            namespace: namespace.to_owned(),
        };
        let default = "default-docker:\n lookaside: file:///a\n";
        let rows = [
            (vec![("1", once), ("2", once)], "2", twice("a.io")),
            (
                vec![("1", default), ("2", default)],
                "2",
                twice("default-docker"),
            ),
            (
                vec![("1", "- a")],
                "1",
                wrong_type("the document", "a mapping"),
            ),
            (
                vec![("1", "docker: x")],
                "1",
                wrong_type("docker", "a mapping"),
            ),
            (
                vec![("1", "docker:\n a.io:\n  lookaside: [a]")],
                "1",
                wrong_type("lookaside of a.io", "a text"),
            ),
            (
                vec![("1", "docker:\n a.io:\n  use-sigstore-attachments: yes")],
                "1",
                wrong_type("use-sigstore-attachments of a.io", "true or false"),
            ),
        ];
        for (files, file, problem) in rows {
            let error = parse(&files).unwrap_err();
            assert_eq!((error.file(), error.problem()), (file, &problem));
        }
    }
}

//! Lists of referrers, page by page.

use std::collections::HashMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::whole;
use crate::image::media_type;

/// What is listed as referring to documents, and the artefacts that are kept here alone.
#[derive(Debug, Clone)]
pub struct Referrers {
    lists: HashMap<String, Vec<Value>>,
    page: usize,
    next: Option<String>,
    documents: HashMap<String, Bytes>,
}

impl Referrers {
    /// Lists with so many entries on a page.
    pub fn paged(page: usize) -> Self {
        Self {
            lists: HashMap::new(),
            page,
            next: None,
            documents: HashMap::new(),
        }
    }

    /// Lists these entries for the document `digest`, whatever the repository.
    #[must_use]
    pub fn list(mut self, digest: &str, entries: impl IntoIterator<Item = Value>) -> Self {
        let list = self.lists.entry(digest.to_owned()).or_default();
        list.extend(entries);
        self
    }

    /// Has every page say that the next one is here.
    #[must_use]
    pub fn next_page(mut self, address: &str) -> Self {
        self.next = Some(address.to_owned());
        self
    }

    /// Serves these bytes as the manifest `digest`, which the registry need not have.
    #[must_use]
    pub fn document(mut self, digest: &str, bytes: impl Into<Bytes>) -> Self {
        self.documents.insert(digest.to_owned(), bytes.into());
        self
    }

    pub(super) fn answer(&self, path: &str, query: &str) -> Option<Response<Full<Bytes>>> {
        if let Some((_, digest)) = path.split_once("/manifests/")
            && let Some(bytes) = self.documents.get(digest)
        {
            return Some(typed(media_type::OCI_MANIFEST, bytes.clone()));
        }
        let (_, digest) = path.split_once("/referrers/")?;
        let list = self.lists.get(digest).map_or(&[][..], Vec::as_slice);
        let begin = query.strip_prefix("from=").unwrap_or("0");
        let begin: usize = begin.parse().expect("a page of ours");
        let rest = list.get(begin..).unwrap_or_default();
        let entries = rest.get(..self.page).unwrap_or(rest);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": entries,
        });
        let mut answer = typed(media_type::OCI_INDEX, index.to_string().into());
        let next = match &self.next {
            Some(next) => Some(next.clone()),
            None if entries.len() < rest.len() => {
                Some(format!("{path}?from={}", begin + entries.len()))
            }
            None => None,
        };
        if let Some(next) = next {
            let link = format!("<{next}>; rel=\"next\"");
            let link = HeaderValue::from_str(&link).expect("a legal address");
            answer.headers_mut().insert(LINK, link);
        }
        Some(answer)
    }
}

fn typed(media_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut answer = whole(StatusCode::OK, body);
    let value = HeaderValue::from_static(media_type);
    answer.headers_mut().insert(CONTENT_TYPE, value);
    answer
}

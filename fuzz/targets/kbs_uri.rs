//! The name of a resource prints as what reads the same, and no reader of URLs resolves it further.
#![no_main]

use kbs_client::ResourceUri;
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|text: &str| {
    let Ok(uri) = text.parse::<ResourceUri>() else {
        return;
    };
    assert_eq!(uri.to_string().parse(), Ok(uri.clone()));
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let url = format!("http://kbs.example{}{query}", uri.http_path());
    let url = Url::parse(&url).unwrap();
    assert_eq!(url.path(), uri.http_path());
    assert_eq!(url.host_str(), Some("kbs.example"));
    assert_eq!(url.fragment(), None);
});

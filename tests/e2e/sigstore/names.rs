//! A bundle names no repository: when that will do.

use kit::client::Code;
use kit::image::Image;
use kit::scene::KEY;
use serde_json::{Value, json};

use super::{Stage, verify};
use crate::{DENIED, assert_says};

/// A requirement of the owner's key, with this `signedIdentity` if any.
fn signed(identity: Option<&Value>) -> Value {
    let mut requirement = json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{KEY}")});
    if let Some(identity) = identity {
        requirement["signedIdentity"] = identity.clone();
    }
    requirement
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_counts_on_its_digest_unless_a_name_is_wanted_or_strictness() {
    let mut stage = Stage::set().await;
    let image = Image::small("nameless");
    let reference = stage.push("team/app:1", &image).await;
    stage
        .refer("team/app", &image, &[stage.attached(&image)])
        .await;
    let digest_only = json!({"type": "digestOnly"});
    let repository = json!({"type": "matchRepository"});
    let must_say = "with strict_identity the requirement must say that this will do";
    let cannot_hold = "a bundle names no repository, so matchRepository cannot hold";
    for (strict, identity, refused) in [
        (false, None, None),
        (false, Some(&digest_only), None),
        (false, Some(&repository), Some(cannot_hold)),
        (true, None, Some(must_say)),
        (true, Some(&digest_only), None),
        (true, Some(&repository), Some(cannot_hold)),
    ] {
        let rule = identity.map_or("none", |rule| rule["type"].as_str().unwrap());
        let case = format!("strict {strict}, {rule}");
        stage.guest.settings = stage
            .guest
            .settings
            .clone()
            .with("image_agent.strict_identity", strict);
        stage.demand(&signed(identity));
        let daemon = stage.guest.start().await;
        let Some(words) = refused else {
            stage.delivers(&daemon, &case, &reference).await;
            let (code, record, said) = verify(&stage.guest, &reference);
            assert_eq!(code, Some(0), "{case}: {said}");
            assert_says(&case, &record, &["digest only"]);
            continue;
        };
        let refusal = daemon.refuses(&reference, &stage.guest.bundle("c1")).await;
        assert_eq!(refusal.code, Code::PERMISSION_DENIED, "{case}: {refusal:?}");
        let words = [DENIED, words, r#""signedIdentity": {"type": "digestOnly"}"#];
        assert_says(&case, &refusal.message, &words);
    }
}

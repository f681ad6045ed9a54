//! Keys whose bundles must have been logged, by a log that the policy names by its bare key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kit::image::Image;
use kit::scene::KEY;
use kit::sigstore::{Attached, Sigstore, Statement, Version};
use serde_json::json;

use super::Stage;
use super::evidence::dev;
use crate::{DENIED, assert_says};

#[tokio::test(flavor = "multi_thread")]
async fn bundle_by_a_key_needs_the_entry_of_the_log_that_the_policy_names() {
    let stage = Stage::set().await;
    let daemon = stage.guest.start().await;
    let image = Image::small("logged");
    let reference = stage.push("team/logged:1", &image).await;
    let statement = Statement::signature(&image.digest());
    let demand = |services: &Sigstore| {
        stage.demand(&json!({
            "type": "sigstoreSigned",
            "keyPath": format!("kbs:///{KEY}"),
            "rekorPublicKeyData": STANDARD.encode(services.log_pem(Version::One)),
        }));
    };
    let logged = stage.services.keyed(&stage.scene.key, &statement);
    let attached = [Attached::bundle(&image, &logged)];
    stage.refer("team/logged", &image, &attached).await;
    demand(&stage.services);
    stage.delivers(&daemon, "logged", &reference).await;

    // cosign 3 asks an authority for a timestamp as well, which this policy has no use for.
    let stamped = dev(&stage.services).sign(&statement);
    let stamps = stamped.json()["verificationMaterial"]["timestampVerificationData"].clone();
    let stamped = logged.edit(|json| {
        json["verificationMaterial"]["timestampVerificationData"] = stamps;
    });
    let attached = [Attached::bundle(&image, &stamped)];
    stage.refer("team/logged", &image, &attached).await;
    stage.delivers(&daemon, "stamped", &reference).await;

    demand(&Sigstore::mint());
    let refusal = daemon
        .refuses(&reference, &stage.guest.bundle("other"))
        .await;
    assert_says("another log", &refusal.message, &[DENIED, "log"]);

    stage
        .refer("team/logged", &image, &[stage.attached(&image)])
        .await;
    demand(&stage.services);
    let refusal = daemon
        .refuses(&reference, &stage.guest.bundle("none"))
        .await;
    let words = [DENIED, "no entry of a transparency log"];
    assert_says("no entry", &refusal.message, &words);
}

//! Keys of every kind that cosign can import.

use std::process::Command;

use kit::image::Image;
use kit::programs::{require, run};

use crate::Report;
use crate::cosign::{at, by, sign};
use crate::world::{World, succeed};

/// Arguments of `openssl genpkey` for each kind.
const KINDS: [(&str, &[&str]); 6] = [
    ("p256", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("p384", &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ("p521", &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
    ("rsa2048", &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("rsa4096", &["RSA", "-pkeyopt", "rsa_keygen_bits:4096"]),
    ("ed25519", &["ED25519"]),
];

/// Runs every case.
pub(crate) async fn check(world: &World, report: &mut Report) {
    for (kind, genpkey) in KINDS {
        let pem = world.home().join(format!("{kind}.pem"));
        let mut openssl = Command::new(require("openssl", "openssl"));
        run(openssl
            .args(["genpkey", "-algorithm"])
            .args(genpkey)
            .arg("-out")
            .arg(pem));
        let mut import = world.command("cosign");
        import.args(["import-key-pair", "--key", &format!("{kind}.pem")]);
        let imported = succeed(import.args(["--output-key-prefix", kind]));
        report.add(
            &format!("cosign import-key-pair, {kind}"),
            imported.map(drop),
        );
        let image = Image::small(kind);
        let name = world.push(&format!("org/{kind}:1"), &image).await;
        let outcome = sign(world, kind, &at(&name, &image), &[]);
        report.add(&format!("cosign sign, {kind}"), outcome);
        let (policy, tag) = (by(kind, world), format!("{name}:1"));
        if kind == "ed25519" {
            // cosign makes Ed25519ph (RFC 8032 section 5.1) of it, which is another algorithm;
            // the reference implementation knows Ed25519 alone, too.
            let outcome = world.refuses(&policy, &tag, &["not by the key"]).await;
            report.add(
                "ed25519: refused, since cosign signs with Ed25519ph",
                outcome,
            );
        } else {
            let outcome = world.accepts(&policy, &tag, &[]).await;
            report.add(&format!("{kind}: accepted"), outcome);
        }
    }
}

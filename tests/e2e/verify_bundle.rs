//! `image-agent verify-bundle`, by the protocol of Sigstore's conformance suite: every class of its
//! cases that can be minted here, for the artefact as a file and as a digest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::cosign::{Key, KeyKind};
use kit::guest::program;
use kit::image::sha256;
use kit::sigstore::{Bundle, Ceremony, Identity, Moment, Sigstore, Statement, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::assert_says;

const EMAIL: &str = "dev@example.com";
const ISSUER: &str = "https://login.example.com";
const CONTENT: &[u8] = b"content";
const SIGNER: [&str; 4] = [
    "--certificate-identity",
    EMAIL,
    "--certificate-oidc-issuer",
    ISSUER,
];

const VERIFIED: i32 = 0;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNREADABLE: i32 = 3;

/// The files of one call.
struct Desk {
    directory: TempDir,
}

impl Desk {
    /// With `root.json` of these services, and an `artifact`.
    fn new(services: &Sigstore) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let desk = Self { directory };
        desk.write("root.json", services.trusted_root().to_string());
        desk.write("artifact", CONTENT);
        desk
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The exit code of the program in this directory, and what it says.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(program());
        command.arg("verify-bundle").args(arguments);
        let output = command.current_dir(self.directory.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code();
        (code.expect("it ends by itself"), said)
    }

    /// Judges a bundle: options as the suite orders them.
    fn judge(&self, bundle: &[u8], by: &[&str], artifact: &str) -> (i32, String) {
        self.write("bundle.json", bundle);
        let trust = ["--trusted-root", "root.json", artifact];
        self.run(&[&["--bundle", "bundle.json"], by, &trust].concat())
    }

    /// Asserts that a bundle is verified for the file and for its digest.
    fn verifies(&self, case: &str, bundle: &Bundle, by: &[&str]) {
        for artifact in ["artifact", &sha256(CONTENT)] {
            let answer = self.judge(&bundle.bytes(), by, artifact);
            assert_eq!(answer, (VERIFIED, String::new()), "{case}, {artifact}");
        }
    }

    /// Asserts that a bundle is refused for the file and for its digest, with these words.
    fn refuses(&self, case: &str, bundle: &[u8], by: &[&str], words: &[&str]) {
        for artifact in ["artifact", &sha256(CONTENT)] {
            let (code, said) = self.judge(bundle, by, artifact);
            assert_eq!(code, REFUSED, "{case}, {artifact}: {said}");
            assert_says(case, &said, words);
            assert_eq!(said.lines().count(), 1, "{case}: {said}");
        }
    }
}

fn signer(services: &Sigstore) -> Ceremony<'_> {
    services.ceremony(Identity::email(EMAIL, ISSUER))
}

fn statement() -> Statement {
    Statement::signature(&sha256(CONTENT))
}

#[test]
fn every_honest_form_of_evidence_is_verified() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let signer = signer(&services);
    for (case, signer) in [
        ("everything", signer.clone()),
        ("no timestamp", signer.clone().without_timestamp()),
        ("the second log", signer.clone().log(Version::Two)),
    ] {
        desk.verifies(case, &signer.sign(&statement()), &SIGNER);
        desk.verifies(case, &signer.sign_blob(CONTENT), &SIGNER);
    }
    let attestation = Statement::slsa(&sha256(CONTENT), "https://builder.example", "source");
    desk.verifies("any predicate", &signer.sign(&attestation), &SIGNER);
    let subject = json!({"name": "other", "digest": {"sha256": sha256(b"other")[7..]}});
    let several = statement().edit(|statement| {
        let subjects = statement["subject"].as_array_mut().unwrap();
        subjects.insert(0, subject);
    });
    desk.verifies("one of several subjects", &signer.sign(&several), &SIGNER);
}

#[test]
fn another_signer_is_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let bundle = signer(&services).sign(&statement()).bytes();
    let by = |identity, issuer| ["--certificate-identity", identity, SIGNER[2], issuer];
    for (case, identity, issuer) in [
        ("identity", "other@example.com", ISSUER),
        ("part of the identity", "dev@example", ISSUER),
        ("expression for it", ".*", ISSUER),
        ("issuer", EMAIL, "https://login.example.org"),
        ("beginning of the issuer", EMAIL, "https://login"),
    ] {
        let words = [identity, issuer, EMAIL, ISSUER];
        desk.refuses(case, &bundle, &by(identity, issuer), &words);
    }
    let nobody = services.ceremony(Identity::nobody(ISSUER));
    desk.refuses("no name", &nobody.sign(&statement()).bytes(), &SIGNER, &[]);
}

#[test]
fn another_artefact_is_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    desk.write("other", "other");
    let signer = signer(&services);
    for bundle in [signer.sign(&statement()), signer.sign_blob(CONTENT)] {
        for artifact in ["other", &sha256(b"other"), "/dev/null"] {
            let (code, said) = desk.judge(&bundle.bytes(), &SIGNER, artifact);
            assert_eq!(code, REFUSED, "{artifact}: {said}");
            assert_says(artifact, &said, &["match"]);
        }
    }
}

#[test]
fn evidence_that_is_missing_is_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let signer = signer(&services);
    let late = Moment::now().minus(7200);
    for (case, signer, words) in [
        ("no log", signer.clone().without_log(), "transparency log"),
        (
            "no time",
            signer.clone().log(Version::Two).without_timestamp(),
            "timestamp",
        ),
        (
            "no certificate log",
            signer.clone().without_certificate_log(),
            "SCT",
        ),
        ("signed late", signer.clone().issued(late), "certificate"),
        ("signed early", signer.clone().signed(late), "certificate"),
    ] {
        for bundle in [signer.sign(&statement()), signer.sign_blob(CONTENT)] {
            desk.refuses(case, &bundle.bytes(), &SIGNER, &[words]);
        }
    }
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let signer = signer(&services);
    let entry = "/verificationMaterial/tlogEntries/0";
    let stamp =
        "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let (proof, promise) = (format!("{entry}/inclusionProof"), "inclusionPromise");
    let statement = signer.sign(&statement());
    let blob = signer.sign_blob(CONTENT);
    for (case, bundle, pointer) in [
        ("payload", &statement, "/dsseEnvelope/payload"),
        ("signature", &statement, "/dsseEnvelope/signatures/0/sig"),
        ("signature", &blob, "/messageSignature/signature"),
        ("digest", &blob, "/messageSignature/messageDigest/digest"),
        (
            "certificate",
            &blob,
            "/verificationMaterial/certificate/rawBytes",
        ),
        ("timestamp", &blob, stamp),
        ("body", &blob, &format!("{entry}/canonicalizedBody")),
        ("name of the log", &blob, &format!("{entry}/logId/keyId")),
        ("path", &statement, &format!("{proof}/hashes/0")),
        ("root", &statement, &format!("{proof}/rootHash")),
        (
            "promise",
            &statement,
            &format!("{entry}/{promise}/signedEntryTimestamp"),
        ),
    ] {
        desk.refuses(case, &bundle.clone().spoiled(pointer).bytes(), &SIGNER, &[]);
    }
    let set = |pointer: &str, value: Value| {
        let changed = blob.clone().edit(|bundle| {
            *bundle.pointer_mut(pointer).expect("the member is there") = value;
        });
        changed.bytes()
    };
    for (case, pointer, value) in [
        ("time", format!("{entry}/integratedTime"), json!("1")),
        ("index", format!("{proof}/logIndex"), json!("1")),
        ("size", format!("{proof}/treeSize"), json!("4")),
        (
            "checkpoint",
            format!("{proof}/checkpoint/envelope"),
            json!(""),
        ),
        (
            "algorithm",
            "/messageSignature/messageDigest/algorithm".to_owned(),
            json!("SHA2_512"),
        ),
    ] {
        desk.refuses(case, &set(&pointer, value), &SIGNER, &[]);
    }
}

#[test]
fn evidence_of_another_signature_or_none_is_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let signer = signer(&services);
    let entry = "/verificationMaterial/tlogEntries/0";
    let proof = format!("{entry}/inclusionProof");
    let blob = signer.sign_blob(CONTENT);
    // The entry of another signature by the same signer, over the same bytes.
    let other = signer.sign_blob(CONTENT);
    let other = other.json().pointer(entry).expect("an entry").clone();
    let changed = blob.clone().edit(|bundle| {
        *bundle.pointer_mut(entry).expect("the member is there") = other;
    });
    desk.refuses("entry of another", &changed.bytes(), &SIGNER, &[]);
    let unproved = blob.clone().without(&proof);
    desk.refuses("no proof", &unproved.bytes(), &SIGNER, &["inclusion proof"]);
    let checkpoint = blob.clone().without(&format!("{proof}/checkpoint"));
    desk.refuses("no checkpoint", &checkpoint.bytes(), &SIGNER, &[]);
}

#[test]
fn services_that_the_root_does_not_name_are_refused() {
    let services = Sigstore::mint();
    let other = Sigstore::mint();
    let bundle = signer(&services).sign_blob(CONTENT).bytes();
    let desk = Desk::new(&other);
    desk.refuses("another root", &bundle, &SIGNER, &[]);
    for list in [
        "tlogs",
        "ctlogs",
        "certificateAuthorities",
        "timestampAuthorities",
    ] {
        for replacement in [other.trusted_root()[list].clone(), json!([])] {
            let mut root = services.trusted_root();
            root[list] = replacement;
            desk.write("root.json", root.to_string());
            desk.refuses(list, &bundle, &SIGNER, &[]);
        }
        let mut root = services.trusted_root();
        end_trust(&mut root[list]);
        desk.write("root.json", root.to_string());
        desk.refuses("trust that ended", &bundle, &SIGNER, &[]);
    }
    let expired = Sigstore::with_expired_intermediate();
    let desk = Desk::new(&expired);
    let bundle = signer(&expired).sign_blob(CONTENT).bytes();
    desk.refuses("expired intermediate", &bundle, &SIGNER, &[]);
}

/// Lets the validity of each service in a list of a trusted root end long before the signing.
fn end_trust(list: &mut Value) {
    for service in list.as_array_mut().unwrap() {
        let window = if service["publicKey"].is_object() {
            &mut service["publicKey"]["validFor"]
        } else {
            &mut service["validFor"]
        };
        window["end"] = "2020-06-01T00:00:00Z".into();
    }
}

#[test]
fn malformed_bundles_are_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let good = signer(&services).sign(&statement());
    desk.verifies("the one that is spoiled below", &good, &SIGNER);
    let text = String::from_utf8(good.bytes().to_vec()).unwrap();
    let edited = |change: &dyn Fn(&mut Value)| good.clone().edit(change).bytes().to_vec();
    let two = |bundle: &mut Value| {
        let signatures = bundle["dsseEnvelope"]["signatures"].as_array_mut().unwrap();
        signatures.push(signatures[0].clone());
    };
    for (case, bundle) in [
        ("empty", Vec::new()),
        ("garbage", vec![0, 159, 146, 150]),
        ("cut off", text.as_bytes()[..text.len() / 2].to_vec()),
        ("trailing data", format!("{text}{{}}").into_bytes()),
        ("another JSON", b"[]".to_vec()),
        ("deep", "[".repeat(100_000).into_bytes()),
        (
            "key twice",
            text.replacen('{', r#"{"dsseEnvelope":{},"#, 1).into_bytes(),
        ),
        (
            "media type",
            edited(&|bundle| bundle["mediaType"] = "application/json".into()),
        ),
        (
            "version",
            edited(&|bundle| {
                bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v9.9+json".into();
            }),
        ),
        ("two signatures", edited(&two)),
        (
            "no signature",
            edited(&|bundle| bundle["dsseEnvelope"]["signatures"] = json!([])),
        ),
        (
            "nothing signed",
            good.clone().without("/dsseEnvelope").bytes().to_vec(),
        ),
        (
            "no material",
            good.clone()
                .without("/verificationMaterial")
                .bytes()
                .to_vec(),
        ),
        (
            "entries without end",
            edited(&|bundle| {
                let entries = &mut bundle["verificationMaterial"]["tlogEntries"];
                *entries = json!(vec![entries[0].clone(); 1000]);
            }),
        ),
    ] {
        desk.refuses(case, &bundle, &SIGNER, &["bundle.json"]);
    }
}

#[test]
fn bundles_with_two_of_what_excludes_each_other_are_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let good = signer(&services).sign(&statement());
    let contents = good.clone().edit(|bundle| {
        let signature = bundle["dsseEnvelope"]["signatures"][0]["sig"].clone();
        bundle["messageSignature"] = json!({"signature": signature});
    });
    let words = ["it has 2 of dsseEnvelope, messageSignature"];
    desk.refuses("contents", &contents.bytes(), &SIGNER, &words);
    let signers = good.edit(|bundle| {
        bundle["verificationMaterial"]["publicKey"] = json!({"hint": ""});
    });
    let words = ["it has 2 of certificate, x509CertificateChain, publicKey"];
    desk.refuses("signers", &signers.bytes(), &SIGNER, &words);
}

#[test]
fn envelopes_of_something_else_are_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let signer = signer(&services);
    for (case, statement) in [
        ("type", statement().payload_type("application/json")),
        (
            "no subject",
            statement().edit(|it| it["subject"] = json!([])),
        ),
        (
            "null subject",
            statement().edit(|it| it["subject"] = Value::Null),
        ),
        (
            "digest of another kind",
            statement().edit(|it| it["subject"][0]["digest"] = json!({"md5": "00"})),
        ),
    ] {
        desk.refuses(case, &signer.sign(&statement).bytes(), &SIGNER, &[]);
    }
}

#[test]
fn a_managed_key_verifies_what_it_signed_and_a_log_took_in() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let by_key = ["--key", "key.pub"];
    for kind in [
        KeyKind::P256,
        KeyKind::P384,
        KeyKind::Rsa2048,
        KeyKind::Ed25519,
    ] {
        let key = Key::mint(kind);
        desk.write("key.pub", key.public_pem());
        let bundle = services.keyed(&key, &statement());
        desk.verifies(&format!("{kind:?}"), &bundle, &by_key);
    }
    let key = Key::mint(KeyKind::P256);
    desk.write("key.pub", key.public_pem());
    let bundle = services.keyed(&key, &statement());
    desk.refuses("no certificate", &bundle.bytes(), &SIGNER, &[]);
    let unlogged = Bundle::keyed(&key, &statement()).bytes();
    desk.refuses("no log", &unlogged, &by_key, &["transparency log"]);
    let keyless = signer(&services).sign(&statement()).bytes();
    desk.refuses("a certificate", &keyless, &by_key, &["certificate"]);
    let spoiled = bundle.clone().spoiled("/dsseEnvelope/signatures/0/sig");
    desk.refuses("spoiled", &spoiled.bytes(), &by_key, &[]);
    for (case, pem) in [
        ("another key", Key::mint(KeyKind::P256).public_pem()),
        ("empty key", String::new()),
        ("no key", "key".to_owned()),
        ("a certificate as key", services.root_pem()),
    ] {
        desk.write("key.pub", pem);
        desk.refuses(case, &bundle.bytes(), &by_key, &[]);
    }
}

#[test]
fn what_is_no_trusted_root_is_refused() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let bundle = signer(&services).sign(&statement()).bytes();
    let root = services.trusted_root();
    let with = |member: &str, value: Value| {
        let mut root = root.clone();
        root[member] = value;
        root.to_string()
    };
    for (case, document) in [
        ("empty", String::new()),
        ("garbage", "\u{1b}[0m".to_owned()),
        ("no members", "{}".to_owned()),
        ("media type", with("mediaType", json!("application/json"))),
        ("logs that are none", with("tlogs", json!(["log"]))),
        (
            "authorities that are none",
            with("certificateAuthorities", json!([{}])),
        ),
        ("trailing data", format!("{root} ,")),
        ("too large", format!("{root}{}", " ".repeat(2 << 20))),
    ] {
        desk.write("root.json", document);
        desk.refuses(case, &bundle, &SIGNER, &["root.json"]);
    }
}

#[test]
fn the_roots_that_are_built_in_trust_no_private_services() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    desk.write("bundle.json", signer(&services).sign(&statement()).bytes());
    let common = [&["--bundle", "bundle.json"], SIGNER.as_slice()].concat();
    for staging in [&["--staging"][..], &[]] {
        let (code, said) = desk.run(&[staging, &common, &["artifact"]].concat());
        assert_eq!(code, REFUSED, "{staging:?}: {said}");
        assert_says("built in", &said, &["bundle.json"]);
    }
    // A root that is named counts alone.
    let trust = ["--trusted-root", "root.json", "artifact"];
    let answer = desk.run(&[&["--staging"], common.as_slice(), &trust].concat());
    assert_eq!(answer, (VERIFIED, String::new()));
}

#[test]
fn large_artefacts_are_verified() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let size = 300 << 20;
    let file = File::create(desk.path("large")).unwrap();
    file.set_len(size).unwrap();
    let content = vec![0; usize::try_from(size).unwrap()];
    let blob = signer(&services).sign_blob(&content);
    let statement = signer(&services).sign(&Statement::signature(&sha256(&content)));
    for bundle in [blob, statement] {
        let answer = desk.judge(&bundle.bytes(), &SIGNER, "large");
        assert_eq!(answer, (VERIFIED, String::new()));
    }
    // One that never ends is not read for ever.
    file.set_len(1 << 40).unwrap();
    let bundle = signer(&services).sign_blob(CONTENT);
    desk.write("endless", bundle.bytes());
    let (code, said) =
        desk.run(&[&["--bundle", "large"], SIGNER.as_slice(), &["artifact"]].concat());
    assert_eq!(code, REFUSED, "{said}");
    assert_says("a bundle", &said, &["large", "more than"]);
}

#[test]
fn a_digest_that_is_also_a_file_is_a_file() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let name = sha256(b"another");
    desk.write(&name, CONTENT);
    let bundle = signer(&services).sign_blob(CONTENT).bytes();
    let answer = desk.judge(&bundle, &SIGNER, &name);
    assert_eq!(answer, (VERIFIED, String::new()));
    for name in [
        "sha256:",
        &sha256(CONTENT)[..70],
        &sha256(CONTENT).to_uppercase(),
    ] {
        let (code, said) = desk.judge(&bundle, &SIGNER, name);
        assert_eq!(code, UNREADABLE, "{said}");
        assert_says("no such file", &said, &[name, "No such file"]);
    }
}

#[test]
fn files_that_cannot_be_read_have_their_own_exit_code() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    desk.write("bundle.json", signer(&services).sign(&statement()).bytes());
    desk.write("key.pub", Key::mint(KeyKind::P256).public_pem());
    std::fs::create_dir(desk.path("directory")).unwrap();
    let good = ["bundle.json", "root.json", "artifact"];
    for place in 0..good.len() {
        for bad in ["missing", "directory"] {
            let mut files = good;
            files[place] = bad;
            let [bundle, root, artifact] = files;
            for by in [&SIGNER[..], &["--key", "key.pub"]] {
                let (code, said) = desk.run(
                    &[
                        &["--bundle", bundle],
                        by,
                        &["--trusted-root", root, artifact],
                    ]
                    .concat(),
                );
                assert_eq!(code, UNREADABLE, "{files:?}: {said}");
                assert_says(bad, &said, &[bad]);
            }
        }
    }
    let (code, said) = desk.run(&["--bundle", "bundle.json", "--key", "missing", "artifact"]);
    assert_eq!(code, UNREADABLE, "{said}");
}

#[test]
fn mistakes_on_the_command_line_are_no_refusals() {
    let services = Sigstore::mint();
    let desk = Desk::new(&services);
    let identity = &SIGNER[..2];
    let issuer = &SIGNER[2..];
    let key = &["--key", "key.pub"][..];
    let bundle = &["--bundle", "bundle.json"][..];
    let artifact = &["artifact"][..];
    for arguments in [
        &[][..],
        &[bundle, artifact],
        &[bundle, identity, artifact],
        &[bundle, issuer, artifact],
        &[bundle, identity, issuer],
        &[identity, issuer, artifact],
        &[bundle, identity, issuer, key, artifact],
        &[bundle, identity, key, artifact],
        &[bundle, identity, issuer, artifact, artifact],
        &[bundle, bundle, identity, issuer, artifact],
        &[bundle, &["--certificate-identity", ""], issuer, artifact],
        &[
            bundle,
            identity,
            &["--certificate-oidc-issuer", ""],
            artifact,
        ],
        &[bundle, key, &["--unknown"], artifact],
    ] {
        let (code, said) = desk.run(&arguments.concat());
        assert_eq!(code, USAGE, "{arguments:?}: {said}");
    }
    assert_eq!(desk.run(&["--help"]), (VERIFIED, String::new()));
    assert!(Path::new(&program()).is_file());
}

/// Where the engine's source is, which comes with bundles that others have made and signed with the
/// public services.
fn engine() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    let engine = packages.find(|package| package["name"] == "sigstore-verify");
    let manifest = engine.unwrap()["manifest_path"].as_str().unwrap();
    Path::new(manifest).with_file_name("test_data")
}

/// The roots of both public instances that are built in, both versions of the log, bundles of three
/// versions, blobs and statements, and a key.
#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn bundles_of_the_public_services_are_verified_and_by_nobody_else() {
    let samples = engine();
    let github = "https://github.com/login/oauth";
    let actions = "https://token.actions.githubusercontent.com";
    let workflow = "https://github.com/prefix-dev/sigstore-example/.github/workflows/action.yaml@refs/heads/main";
    let conda = "bundles/signed-package-2.1.0-hb0f4dca_0.conda";
    let rows: [(&[&str], &str, &str, &str, &str); 4] = [
        (
            &[],
            "bundles/cosign-v3-blob.sigstore.json",
            "w.vollprecht@gmail.com",
            github,
            "bundles/cosign-v3-blob.txt",
        ),
        (
            &[],
            "bundles/conda-attestation.sigstore.json",
            workflow,
            actions,
            conda,
        ),
        (
            &["--staging"],
            "bundles/conda-attestation-rekor2.sigstore.json",
            "jku@goto.fi",
            github,
            conda,
        ),
        (
            &["--staging"],
            "upstream/sigstore-python/staging-rekor-v2.txt.sigstore.json",
            "jku@goto.fi",
            github,
            "upstream/sigstore-python/staging-rekor-v2.txt",
        ),
    ];
    let run = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.arg("verify-bundle").args(arguments);
        command
            .current_dir(&samples)
            .output()
            .unwrap()
            .status
            .code()
    };
    for (instance, bundle, identity, issuer, artifact) in rows {
        let by = |identity, issuer, artifact| {
            let bundle = ["--bundle", bundle, "--certificate-identity", identity];
            let issuer = ["--certificate-oidc-issuer", issuer, artifact];
            run(&[instance, &bundle, &issuer].concat())
        };
        assert_eq!(by(identity, issuer, artifact), Some(VERIFIED), "{bundle}");
        assert_eq!(
            by("else@example.com", issuer, artifact),
            Some(REFUSED),
            "{bundle}"
        );
        assert_eq!(
            by(identity, "https://else.example", artifact),
            Some(REFUSED),
            "{bundle}"
        );
        assert_eq!(
            by(identity, issuer, "managed-key/artifact.txt"),
            Some(REFUSED),
            "{bundle}"
        );
    }
    let key = [
        "--bundle",
        "managed-key/bundle.sigstore.json",
        "--key",
        "managed-key/key.pub",
    ];
    let by_key = |artifact| run(&[key.as_slice(), &[artifact]].concat());
    assert_eq!(by_key("managed-key/artifact.txt"), Some(VERIFIED));
    assert_eq!(by_key(conda), Some(REFUSED));
}

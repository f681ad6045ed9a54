//! Mints what the fuzz targets of Sigstore start from: `seeds CONTENT DIR` writes bundles about the
//! file CONTENT, and the trusted root and the key to them, into DIR. The private keys are forgotten.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use kit::cosign::{Key, KeyKind};
use kit::image::sha256;
use kit::sigstore::{Identity, Sigstore, Statement, Version};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [content, directory] = arguments.as_slice() else {
        return Err("usage: seeds CONTENT DIR".into());
    };
    let content = fs::read(content)?;
    let services = Sigstore::mint();
    let signer = services.ceremony(Identity::email(
        "dev@example.com",
        "https://login.example.com",
    ));
    let statement = Statement::signature(&sha256(&content));
    let second = signer.clone().log(Version::Two);
    let key = Key::mint(KeyKind::P256);
    for (name, bundle) in [
        ("statement", signer.sign(&statement)),
        ("blob", signer.sign_blob(&content)),
        ("second", second.sign(&statement)),
        ("keyed", services.keyed(&key, &statement)),
    ] {
        fs::write(directory.join(name), bundle.bytes())?;
    }
    fs::write(directory.join("root"), services.trusted_root().to_string())?;
    fs::write(directory.join("key"), key.public_pem())?;
    Ok(())
}

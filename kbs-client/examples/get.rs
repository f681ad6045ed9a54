//! Fetches one resource with sample evidence: `get URL RESOURCE [ROOTS.pem]`.

use std::env;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;

use kbs_client::{KbsClient, KbsConfig, ResourceUri, SampleAttester};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (url, uri, roots) = match arguments.as_slice() {
        [url, uri] => (url, uri, None),
        [url, uri, roots] => (url, uri, Some(roots)),
        _ => return Err("expected: get URL RESOURCE [ROOTS.pem]".into()),
    };
    let mut config = KbsConfig::new(url.parse()?);
    if let Some(roots) = roots {
        config.root_certificates.push(std::fs::read(roots)?);
    }
    let uri: ResourceUri = uri.parse()?;
    let client = KbsClient::new(config, Arc::new(SampleAttester))?;
    let secret = client.resource(&uri).await?;
    std::io::stdout().write_all(secret.expose())?;
    Ok(())
}

//! Measures unpacking: `unpack BLOB... DIRECTORY` reads layers from files, three at a time, unpacks
//! them into DIRECTORY, which must exist and be empty, and prints the time and the bytes.
//!
//! What approves a layer is an image made up around it, so this is no way to unpack anything in
//! earnest.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use policy::{Algorithm, Approved, Digest, Document, Evidence, Hasher, ImageRef, Layer, Policy};
use rootfs::{Budget, Cancel, Dir, Limits, Staging, unpack};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let Some((directory, blobs)) = arguments
        .split_last()
        .filter(|(_, blobs)| !blobs.is_empty())
    else {
        return Err("usage: unpack BLOB... DIRECTORY".into());
    };
    let mut layers = Vec::new();
    for (number, blob) in blobs.iter().enumerate() {
        layers.push((number, blob, approve(&mut File::open(blob)?)?));
    }
    let directory = Dir::open_ambient(Path::new(directory))?;
    let budget = Budget::new(Limits::default());

    let (start, used) = (Instant::now(), cpu_ticks()?);
    let waiting = Mutex::new(layers.iter());
    let work = || -> Result<(u64, u64), rootfs::Error> {
        let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
        let mut sum = (0, 0);
        while let Some((number, blob, layer)) = next() {
            let staging = Staging::create(&directory)?;
            let file = File::open(blob).map_err(rootfs::Error::Read)?;
            let source = BufReader::with_capacity(64 << 10, file);
            let proof = unpack(layer, source, &staging, &budget, &Cancel::new())?;
            sum = (sum.0 + proof.entries(), sum.1 + proof.content_bytes());
            staging.commit(proof, &directory, format!("layer-{number}"))?;
        }
        Ok(sum)
    };
    let sums = std::thread::scope(|scope| {
        let workers = [(); AT_A_TIME].map(|()| scope.spawn(work));
        workers.map(std::thread::ScopedJoinHandle::join)
    });
    let (elapsed, used) = (start.elapsed(), cpu_ticks()? - used);
    let (mut entries, mut bytes) = (0, 0);
    for sum in sums {
        let sum = sum.map_err(|_panic| "a worker panicked")??;
        (entries, bytes) = (entries + sum.0, bytes + sum.1);
    }

    let rate = u128::from(bytes) / elapsed.as_micros().max(1);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{entries} entries, {bytes} bytes in {elapsed:.3?}: {rate} MB/s, {used}0 ms of processor"
    )?;
    for line in std::fs::read_to_string("/proc/self/status")?.lines() {
        if line.starts_with("VmHWM") || line.contains("ctxt_switches") {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// Hundredths of a second that this process has used, in user and kernel mode: proc(5).
fn cpu_ticks() -> Result<u64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let mut used = 0;
    for ticks in fields.skip(11).take(2) {
        used += ticks.parse::<u64>()?;
    }
    Ok(used)
}

/// An image of this one layer, under a policy that takes anything.
fn approve(blob: &mut File) -> Result<Approved<Layer>, Box<dyn Error>> {
    let (size, digest) = measure(blob)?;
    let mut magic = [0; 4];
    blob.rewind()?;
    blob.read_exact(&mut magic)?;
    blob.rewind()?;
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let ((_, diff_id), media_type) = match magic {
        [0x1f, 0x8b, ..] => (
            measure(&mut flate2::read::MultiGzDecoder::new(blob))?,
            format!("{kind}+gzip"),
        ),
        [0x28, 0xb5, 0x2f, 0xfd] => (
            measure(&mut zstd::Decoder::new(blob)?)?,
            format!("{kind}+zstd"),
        ),
        _ => ((size, digest), kind.to_owned()),
    };
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
    }))?;
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::sha256_of(&config).to_string(),
            "size": config.len(),
        },
        "layers": [{ "mediaType": media_type, "digest": digest.to_string(), "size": size }],
    }))?;
    let reference = ImageRef::parse_edge("example.test/layer:1")?;
    let Document::Manifest(manifest) =
        Document::parse(&reference, Some(policy::OCI_MANIFEST), manifest)?
    else {
        return Err("not a manifest".into());
    };
    let policy = Policy::parse(br#"{"default":[{"type":"insecureAcceptAnything"}]}"#)?;
    let approved = policy
        .rules_for(&reference)
        .decide(manifest, &Evidence::default())?;
    let image = approved.with_config(&config)?;
    image.layers().next().ok_or_else(|| "no layer".into())
}

fn measure(source: &mut dyn Read) -> Result<(u64, Digest), Box<dyn Error>> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return Ok((size, hasher.finish()));
        }
        size += u64::try_from(count)?;
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

/// As many layers as image-agent unpacks at a time unless it is told otherwise.
const AT_A_TIME: usize = 3;

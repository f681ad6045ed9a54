//! The floor: what the bytes of an image cost at the very least.
//!
//! One thread does the whole work once, stage after stage on the same buffers, and the CPU time
//! of each stage is kept apart: receive, digest of the blob, inflate, digest of the content,
//! and writing the files with plain system calls. Reading the archive's headers is kept apart
//! too and is not part of the floor.

mod ledger;
mod tree;

use std::fs::File;
use std::io::{self, BufReader, Read};

use serde::Serialize;

use self::ledger::{Charged, Digested, Ledger, Stage};
use self::tree::Tree;
use crate::fault::{During, Fault};
use crate::layer::hex;
use crate::measure::{Invocation, sample};
use crate::registry::{Registry, RemoteLayer};
use crate::tools::{Bench, on_path};

/// The issue that set the targets states them for two processors; the bench runs on two.
pub(crate) const PROCESSORS: f64 = 2.0;

/// ISA-L's inflate as a program; Debian's package `isal`.
const IGZIP: &str = "igzip";

/// CPU seconds of each stage.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Floor {
    pub(crate) receive: f64,
    pub(crate) blob_digest: f64,
    pub(crate) inflate: f64,
    /// The fastest of those tried, whose figure `inflate` is.
    pub(crate) inflater: &'static str,
    pub(crate) content_digest: f64,
    pub(crate) write: f64,
    pub(crate) registry: f64,
}

impl Floor {
    pub(crate) fn stages(&self) -> [f64; 6] {
        let Floor {
            receive,
            blob_digest,
            inflate,
            content_digest,
            write,
            registry,
            ..
        } = *self;
        [
            receive,
            blob_digest,
            inflate,
            content_digest,
            write,
            registry,
        ]
    }

    /// All stages, on however many processors.
    pub(crate) fn sum(&self) -> f64 {
        self.stages().iter().sum()
    }

    /// Seconds that no pull can go below: the stages spread evenly over the processors, but
    /// none of them split.
    pub(crate) fn wall(&self) -> f64 {
        let longest = self.stages().into_iter().fold(0.0, f64::max);
        longest.max(self.sum() / PROCESSORS)
    }
}

/// Measures the floor of an image; `registry` is what serving this very run cost.
pub(crate) fn measure(bench: &Bench<'_>, image: &str) -> Result<Floor, Fault> {
    let scratch = bench.scratch()?;
    let registry_before = bench.registry.cpu()?;
    let ledger = Ledger::new();
    // Modes are given at creation, as the archive states them.
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    let layers = bench.registry.layers(image)?;
    let result = layers.iter().enumerate().try_for_each(|(number, layer)| {
        let during = || format!("the floor of {image}, layer {number}");
        let tree = Tree::create(&scratch.join(&format!("layer-{number}"))).during(during)?;
        unpack(bench.registry, image, layer, &tree, &ledger)
    });
    rustix::process::umask(mask);
    result?;
    let registry = bench.registry.cpu()?.saturating_sub(registry_before);
    drop(scratch);
    let linked = (ledger.seconds(Stage::Inflate), inflater_of(&layers));
    let program = inflate_with_igzip(bench, image, &layers)?.map(|seconds| (seconds, IGZIP));
    let (inflate, inflater) = program
        .filter(|program| program.0 < linked.0)
        .unwrap_or(linked);
    Ok(Floor {
        receive: ledger.seconds(Stage::Receive),
        blob_digest: ledger.seconds(Stage::BlobDigest),
        inflate,
        inflater,
        content_digest: ledger.seconds(Stage::ContentDigest),
        write: ledger.seconds(Stage::Write),
        registry: registry.as_secs_f64(),
    })
}

/// The library that this program itself inflates the layers with.
fn inflater_of(layers: &[RemoteLayer]) -> &'static str {
    let zstd = layers
        .iter()
        .any(|layer| layer.media_type.ends_with("+zstd"));
    if zstd { "libzstd" } else { "zlib-rs" }
}

/// The inflate stage again, by a program: its start and its reading of the blob are in the figure.
/// None where it is not installed or a layer is not gzip.
fn inflate_with_igzip(
    bench: &Bench<'_>,
    image: &str,
    layers: &[RemoteLayer],
) -> Result<Option<f64>, Fault> {
    if !on_path(IGZIP)
        || layers
            .iter()
            .any(|layer| !layer.media_type.ends_with("+gzip"))
    {
        return Ok(None);
    }
    let scratch = bench.scratch()?;
    let mut invocations = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let path = scratch.join(&format!("layer-{number}.gz"));
        let during = || format!("writing {}", path.display());
        let mut file = File::create(&path).during(during)?;
        io::copy(
            &mut bench.registry.blob(image, &layer.digest)?.body,
            &mut file,
        )
        .during(during)?;
        invocations.push(Invocation::new(IGZIP).args(&["-d", "-c"]).arg(&path));
    }
    sample(&invocations, bench.registry, scratch.path()).map(|sample| Some(sample.cpu()))
}

const BUFFER: usize = 256 * 1024;

fn unpack(
    registry: &Registry,
    image: &str,
    layer: &RemoteLayer,
    tree: &Tree,
    ledger: &Ledger,
) -> Result<(), Fault> {
    let during = || format!("the floor of {image}, layer {}", layer.digest);
    let body = registry.blob(image, &layer.digest)?.body;
    let received = Charged::new(body, Stage::Receive, ledger);
    let blob = Digested::new(received, Stage::BlobDigest, ledger);
    let compressed = BufReader::with_capacity(BUFFER, blob);
    let digest = if layer.media_type.ends_with("+zstd") {
        let decoder = zstd::Decoder::with_buffer(compressed).during(during)?;
        let mut decoder = unpack_content(decoder, tree, ledger).during(during)?;
        io::copy(&mut decoder, &mut io::sink()).during(during)?;
        decoder.finish().into_inner().finish()
    } else {
        let decoder = flate2::bufread::MultiGzDecoder::new(compressed);
        let mut decoder = unpack_content(decoder, tree, ledger).during(during)?;
        io::copy(&mut decoder, &mut io::sink()).during(during)?;
        decoder.into_inner().into_inner().finish()
    };
    let found = format!("sha256:{}", hex(&digest));
    if found == layer.digest {
        return Ok(());
    }
    let text = format!("expected {}, found {found}", layer.digest);
    Err(io::Error::new(io::ErrorKind::InvalidData, text)).during(during)
}

/// Inflates, digests and writes the archive; gives the decoder back, read to its end.
fn unpack_content<R: Read>(decoder: R, tree: &Tree, ledger: &Ledger) -> io::Result<R> {
    let inflated = Charged::new(decoder, Stage::Inflate, ledger);
    let content = Digested::new(inflated, Stage::ContentDigest, ledger);
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER, content));
    tree.write(&mut archive, ledger)?;
    let mut content = archive.into_inner();
    io::copy(&mut content, &mut io::sink())?;
    Ok(content.into_inner().into_inner().into_inner())
}

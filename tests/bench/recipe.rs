//! Which images there are, and what each of their layers holds.

use std::collections::BTreeSet;

use crate::content::Random;
use crate::fault::Fault;

/// Changes whenever the same recipe would give other bytes, so that cached images are made anew.
pub(crate) const EDITION: u32 = 1;

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
    /// With windows of 8 MiB, as its higher levels have them.
    ZstdWide,
}

/// One image of the bench.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) compression: Compression,
    /// Run when the command line names no images.
    pub(crate) by_default: bool,
    /// Of 1000 records of content, so many are random bytes.
    pub(crate) noise: u64,
    seed: u64,
    layers: Layers,
}

#[derive(Debug, Clone, Copy)]
enum Layers {
    Each(&'static [LayerPlan]),
    Alike(u32, LayerPlan),
}

/// How many entries of which kind a layer holds.
#[derive(Debug, Clone, Copy)]
struct LayerPlan {
    directories: u32,
    files: u32,
    symlinks: u32,
    hardlinks: u32,
    /// Files of lower layers that are deleted, and directories that are emptied.
    whiteouts: u32,
    opaques: u32,
    /// Bytes in all files together.
    bytes: u64,
}

const fn plan(entries: [u32; 6], bytes: u64) -> LayerPlan {
    let [directories, files, symlinks, hardlinks, whiteouts, opaques] = entries;
    LayerPlan {
        directories,
        files,
        symlinks,
        hardlinks,
        whiteouts,
        opaques,
        bytes,
    }
}

const SMALL: Layers = Layers::Each(&[plan([80, 706, 30, 4, 0, 0], 4_300_000)]);

const MEDIUM: Layers = Layers::Each(&[
    plan([900, 7500, 500, 100, 0, 0], 150_000_000),
    plan([400, 4200, 200, 50, 0, 0], 90_000_000),
    plan([300, 3000, 100, 50, 50, 2], 60_000_000),
    plan([200, 2200, 100, 30, 50, 2], 40_000_000),
    plan([150, 1600, 60, 20, 40, 2], 25_000_000),
    plan([100, 1100, 40, 20, 30, 2], 15_000_000),
    plan([80, 700, 20, 10, 20, 1], 11_000_000),
    plan([60, 400, 20, 10, 10, 1], 8_000_000),
]);

const LARGE: Layers = Layers::Each(&[plan([60, 850, 16, 2, 0, 0], 1_020_000_000)]);

const MANY: Layers = alike(40);

/// As many layers of one kind.
const fn alike(count: u32) -> Layers {
    Layers::Alike(count, plan([20, 220, 5, 5, 5, 1], 4_000_000))
}

/// One layer of as many small files.
const fn files(count: u32, bytes: u64) -> Layers {
    Layers::Alike(1, plan([count / 50, count, 0, 0, 0, 0], bytes))
}

/// One layer of as many bytes.
const fn bytes(count: u64) -> Layers {
    Layers::Alike(1, plan([60, 850, 16, 2, 0, 0], count))
}

/// Every image that the bench knows; the entries and sizes are those of `docs/performance.md`.
pub(crate) const RECIPES: &[Recipe] = &[
    recipe("small", Compression::Gzip, true, 290, SMALL),
    recipe("medium", Compression::Gzip, true, 107, MEDIUM),
    recipe("large1", Compression::Gzip, true, 58, LARGE),
    recipe("zstd", Compression::Zstd, true, 107, MEDIUM),
    recipe("zstd-wide", Compression::ZstdWide, true, 107, MEDIUM),
    recipe("many", Compression::Gzip, true, 107, MANY),
    recipe("many-zstd", Compression::Zstd, true, 107, MANY),
    recipe("large1-zstd", Compression::Zstd, false, 58, LARGE),
    recipe(
        "files-100k",
        Compression::Gzip,
        false,
        107,
        files(100_000, 50_000_000),
    ),
    recipe(
        "files-300k",
        Compression::Gzip,
        false,
        107,
        files(300_000, 150_000_000),
    ),
    recipe(
        "files-600k",
        Compression::Gzip,
        false,
        107,
        files(600_000, 300_000_000),
    ),
    recipe(
        "files-1m",
        Compression::Gzip,
        false,
        107,
        files(1_000_000, 500_000_000),
    ),
    recipe("layers-10", Compression::Gzip, false, 107, alike(10)),
    recipe("layers-100", Compression::Gzip, false, 107, alike(100)),
    recipe("layers-200", Compression::Gzip, false, 107, alike(200)),
    recipe(
        "bytes-100m",
        Compression::Gzip,
        false,
        58,
        bytes(100_000_000),
    ),
    recipe(
        "bytes-500m",
        Compression::Gzip,
        false,
        58,
        bytes(500_000_000),
    ),
    recipe(
        "bytes-2g",
        Compression::Gzip,
        false,
        58,
        bytes(2_000_000_000),
    ),
    recipe(
        "bytes-4g",
        Compression::Gzip,
        false,
        58,
        bytes(4_000_000_000),
    ),
];

const fn recipe(
    name: &'static str,
    compression: Compression,
    by_default: bool,
    noise: u64,
    layers: Layers,
) -> Recipe {
    Recipe {
        name,
        compression,
        by_default,
        noise,
        seed: 0x696d_6167_6573,
        layers,
    }
}

/// The recipes of these names, in the order of [`RECIPES`]; the default ones when none is named.
pub(crate) fn choose(names: &[String]) -> Result<Vec<Recipe>, Fault> {
    for name in names {
        if !RECIPES.iter().any(|recipe| recipe.name == name) {
            let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
            return Err(Fault::Unknown {
                kind: "image",
                name: name.clone(),
                expected: known.join(", "),
            });
        }
    }
    let chosen = |recipe: &&Recipe| {
        if names.is_empty() {
            recipe.by_default
        } else {
            names.iter().any(|name| name == recipe.name)
        }
    };
    Ok(RECIPES.iter().filter(chosen).copied().collect())
}

/// One tar entry to be.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: u64,
    pub(crate) kind: Kind,
}

impl Entry {
    fn order(&self) -> (bool, &str) {
        (matches!(self.kind, Kind::HardLink(_)), &self.path)
    }
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum Kind {
    Directory,
    File {
        size: u64,
        seed: u64,
        capability: bool,
    },
    Symlink(String),
    HardLink(String),
    /// The empty `.wh.` files: whiteouts and opaque marks.
    Mark,
}

impl Recipe {
    /// The entries of every layer, bottom first.
    pub(crate) fn layers(&self) -> Vec<Vec<Entry>> {
        let plans = match self.layers {
            Layers::Each(plans) => plans.to_vec(),
            Layers::Alike(count, plan) => (0..count)
                .map(|index| if index == 0 { plan.bottom() } else { plan })
                .collect(),
        };
        let mut lower = Lower::default();
        let build = |(index, plan): (usize, &LayerPlan)| {
            let seed = self.seed ^ (u64::try_from(index).unwrap_or(0) << 48);
            LayerBuilder::new(index, seed).build(*plan, &mut lower)
        };
        plans.iter().enumerate().map(build).collect()
    }
}

impl LayerPlan {
    fn bottom(self) -> LayerPlan {
        LayerPlan {
            whiteouts: 0,
            opaques: 0,
            ..self
        }
    }
}

/// What the layers below offer to be deleted. Each is offered once.
#[derive(Debug, Default)]
struct Lower {
    files: Vec<String>,
    directories: Vec<String>,
}

#[derive(Debug)]
struct LayerBuilder {
    index: usize,
    random: Random,
    entries: Vec<Entry>,
    directories: Vec<String>,
    present: BTreeSet<String>,
}

impl LayerBuilder {
    fn new(index: usize, seed: u64) -> LayerBuilder {
        LayerBuilder {
            index,
            random: Random::new(seed),
            entries: Vec::new(),
            directories: Vec::new(),
            present: BTreeSet::new(),
        }
    }

    fn build(mut self, plan: LayerPlan, lower: &mut Lower) -> Vec<Entry> {
        self.directories(plan);
        let files = self.files(plan);
        self.links(plan, &files);
        self.deletions(plan, lower);
        self.offer(&files, lower);
        // As an archiver walks a tree: parents first, each directory's files together, and a
        // hard link after the file it names.
        self.entries
            .sort_by(|one, other| one.order().cmp(&other.order()));
        self.entries
    }

    /// A tree at most six deep below `usr/layer-N`.
    fn directories(&mut self, plan: LayerPlan) {
        let top = format!("usr/layer-{}", self.index);
        self.ensure_directory(&top);
        self.directories.push(top);
        for number in 2..plan.directories {
            let parent = self.some_directory();
            let shallow = parent.matches('/').count() < 6;
            let parent = if shallow {
                parent
            } else {
                format!("usr/layer-{}", self.index)
            };
            let path = format!("{parent}/dir-{number}");
            self.ensure_directory(&path);
            self.directories.push(path);
        }
    }

    fn files(&mut self, plan: LayerPlan) -> Vec<String> {
        let weights: Vec<u64> = (0..plan.files)
            .map(|_| (1 + self.random.below(100)).pow(3))
            .collect();
        let total = weights.iter().sum::<u64>().max(1);
        let mut paths = Vec::new();
        for (number, weight) in weights.into_iter().enumerate() {
            let path = format!("{}/file-{number}.dat", self.some_directory());
            let special = self.index == 0 && number < 8;
            let size = plan
                .bytes
                .saturating_mul(weight)
                .checked_div(total)
                .unwrap_or(0);
            let mode = match (special, number % 7) {
                (true, _) => 0o4755,
                (false, 0) => 0o755,
                (false, _) => 0o644,
            };
            let seed = self.random.next();
            let owner = if number % 11 == 0 { 1000 } else { 0 };
            let kind = Kind::File {
                size,
                seed,
                capability: special && number == 7,
            };
            self.push(path.clone(), mode, owner, kind);
            paths.push(path);
        }
        paths
    }

    fn links(&mut self, plan: LayerPlan, files: &[String]) {
        for number in 0..plan.symlinks {
            let path = format!("{}/link-{number}", self.some_directory());
            let target = self.random.pick(files).cloned().unwrap_or_default();
            self.push(path, 0o777, 0, Kind::Symlink(format!("/{target}")));
        }
        for number in 0..plan.hardlinks {
            // The header of a hard link repeats its file's: unpackers apply it to the inode.
            let step = usize::try_from(number).unwrap_or(0).saturating_mul(7);
            let Some(target) = files.get(step).cloned() else {
                continue;
            };
            let path = format!("{}/hard-{number}", self.some_directory());
            let file = self.entries.iter().find(|entry| entry.path == target);
            let (mode, owner) = file.map_or((0o644, 0), |entry| (entry.mode, entry.owner));
            self.push(path, mode, owner, Kind::HardLink(target));
        }
    }

    fn deletions(&mut self, plan: LayerPlan, lower: &mut Lower) {
        for _ in 0..plan.whiteouts {
            let Some(path) = lower.files.pop() else { break };
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            self.ensure_directory(parent);
            self.push(format!("{parent}/.wh.{name}"), 0o644, 0, Kind::Mark);
        }
        for number in 0..plan.opaques {
            let Some(path) = lower.directories.pop() else {
                break;
            };
            self.ensure_directory(&path);
            self.push(format!("{path}/.wh..wh..opq"), 0o644, 0, Kind::Mark);
            let seed = self.random.next();
            let kind = Kind::File {
                size: 4000,
                seed,
                capability: false,
            };
            self.push(format!("{path}/fresh-{number}.dat"), 0o644, 0, kind);
        }
    }

    /// Leaves some files and some leaf directories to the layers above, never one inside the other.
    fn offer(&mut self, files: &[String], lower: &mut Lower) {
        let is_leaf = |directory: &&String| {
            let inside = format!("{directory}/");
            !self
                .directories
                .iter()
                .any(|other| other.starts_with(&inside))
        };
        let emptied: Vec<String> = self
            .directories
            .iter()
            .skip(1)
            .filter(is_leaf)
            .take(4)
            .cloned()
            .collect();
        let in_emptied = |path: &str| {
            path.rsplit_once('/')
                .is_some_and(|(parent, _)| emptied.iter().any(|e| e == parent))
        };
        // Hard-linked and special files come first in `files`: leave them be.
        let files = files
            .iter()
            .skip(plan_margin(files.len()))
            .filter(|path| !in_emptied(path));
        lower.files.extend(files.take(60).cloned());
        lower.directories.extend(emptied);
    }

    fn ensure_directory(&mut self, path: &str) {
        let ends = path
            .match_indices('/')
            .map(|(end, _)| end)
            .chain([path.len()]);
        for end in ends {
            let prefix = path.get(..end).unwrap_or(path);
            if self.present.insert(prefix.to_owned()) {
                self.push(prefix.to_owned(), 0o755, 0, Kind::Directory);
            }
        }
    }

    fn some_directory(&mut self) -> String {
        self.random
            .pick(&self.directories)
            .cloned()
            .unwrap_or_else(|| "usr".to_owned())
    }

    fn push(&mut self, path: String, mode: u32, owner: u64, kind: Kind) {
        self.entries.push(Entry {
            path,
            mode,
            owner,
            kind,
        });
    }
}

/// The part of a layer's files that upper layers never delete: its last quarter is theirs.
fn plan_margin(files: usize) -> usize {
    files - files / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(name: &str) -> Vec<Vec<Entry>> {
        choose(&[name.to_owned()]).unwrap()[0].layers()
    }

    #[test]
    fn images_have_the_shapes_that_the_targets_are_stated_for() {
        for (name, layer_count, fewest, most) in [
            ("small", 1, 800, 840),
            ("medium", 8, 24_400, 25_400),
            ("large1", 1, 908, 948),
            ("many", 40, 10_000, 11_000),
        ] {
            let layers = layers(name);
            let entries: usize = layers.iter().map(Vec::len).sum();
            assert_eq!(layers.len(), layer_count, "{name}");
            assert!(
                (fewest..=most).contains(&entries),
                "{name}: {entries} entries"
            );
        }
    }

    #[test]
    fn medium_deletes_two_hundred_files_and_empties_ten_directories() {
        let layers = layers("medium");
        let marks = || {
            layers
                .iter()
                .flatten()
                .filter(|entry| matches!(entry.kind, Kind::Mark))
        };
        let opaque = marks()
            .filter(|entry| entry.path.ends_with("/.wh..wh..opq"))
            .count();
        assert_eq!((opaque, marks().count()), (10, 210));
    }

    #[test]
    fn every_layer_carries_the_parents_of_its_entries_and_names_nothing_twice() {
        for layer in layers("medium") {
            let mut seen = BTreeSet::new();
            for entry in &layer {
                if let Some((parent, _)) = entry.path.rsplit_once('/') {
                    assert!(seen.contains(parent), "{} before its parent", entry.path);
                }
                assert!(seen.insert(entry.path.clone()), "{} twice", entry.path);
            }
        }
    }

    #[test]
    fn names_the_images_there_are_when_asked_for_one_that_there_is_not() {
        let Err(Fault::Unknown { kind, name, .. }) = choose(&["huge".to_owned()]) else {
            panic!("accepted");
        };
        assert_eq!((kind, name.as_str()), ("image", "huge"));
    }
}

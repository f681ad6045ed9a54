//! Names of every length and byte, links in every direction, and entries that come twice.

use rootfs::{Budget, Cancel, Dir, Limits, Staging};
use rustix::fs::{Mode, OFlags};

use crate::kit::{Blob, Header, Scratch, Tar, Tree};

fn unpack(tar: Tar) -> Tree {
    Scratch::new().unpack(&Blob::plain(tar.end())).unwrap()
}

#[test]
fn names_are_bytes() {
    let tree = unpack(
        Tar::new()
            .file(b"\xff\xfe\n\x01", b"")
            .symlink(b"l\x80", b"\xc0\xaf"),
    );
    assert_eq!(tree.names(), ["\\xff\\xfe\\n\\x01", "l\\x80"]);
    assert!(tree.line("l\\x80").contains("-> \\xc0\\xaf"));
}

#[test]
fn absolute_names_are_relative_to_the_root() {
    let tree = unpack(
        Tar::new()
            .file("/etc/passwd", b"")
            .hard_link("/copy", "/etc/passwd")
            .dir("./x/./y//"),
    );
    assert_eq!(tree.names(), ["copy", "etc", "etc/passwd", "x", "x/y"]);
    assert!(tree.line("etc/passwd").contains("linked copy"));
}

#[test]
fn long_names_come_whole_in_every_format() {
    let component = "c".repeat(255);
    // 16 components and slashes make 4,095 bytes, the longest that any call takes.
    let longest = vec![component.as_str(); 16].join("/");
    let path = longest.as_bytes();
    let long = |kind, body: &[u8]| Tar::new().put(Header::new(kind, "././@LongLink"), body);
    let terminated = [path, b"\0"].concat();
    for tar in [
        Tar::new().pax(&[("path", path)]).file("short", b"y"),
        long(b'L', &terminated).file("short", b"y"),
        long(b'L', path).file("short", b"y"),
        Tar::new()
            .file("a", b"y")
            .pax(&[("path", path)])
            .hard_link("short", "a")
            .file(".wh.b", b""),
    ] {
        assert_eq!(read_at_the_bottom(tar.end()), "y");
    }
    let tree = unpack(
        Tar::new()
            .file("x", b"")
            .header(Header::new(b'0', "n".repeat(100)).at(345, "p".repeat(155).as_bytes())),
    );
    assert!(
        tree.lines
            .contains_key(&format!("{}/{}", "p".repeat(155), "n".repeat(100)))
    );
    let target = vec![b't'; 3000];
    let tree = unpack(
        long(b'K', &target)
            .symlink("k", "short")
            .pax(&[("linkpath", &target)])
            .symlink("p", "s"),
    );
    for name in ["k", "p"] {
        assert!(tree.line(name).contains(&"t".repeat(3000)));
    }
}

/// The content of the file under sixteen names of 255 bytes. Only handles get there: with the name
/// of the work area in front, the path is longer than the kernel takes.
fn read_at_the_bottom(archive: Vec<u8>) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let work = Dir::open_ambient(scratch.path()).unwrap();
    let staging = Staging::create(&work).unwrap();
    let blob = Blob::plain(archive);
    let source = blob.bytes.as_slice();
    let proof = rootfs::unpack(
        &blob.approved(),
        source,
        &staging,
        &Budget::new(Limits::default()),
        &Cancel::new(),
    )
    .unwrap();
    staging.commit(proof, &work, "layer").unwrap();
    let mut at = work.open_dir("layer").unwrap();
    for _ in 0..15 {
        at = at.open_dir("c".repeat(255)).unwrap();
    }
    let (read, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let file = rustix::fs::openat(&at, "c".repeat(255), read, mode).unwrap();
    let content = std::io::read_to_string(std::fs::File::from(file)).unwrap();
    work.remove_all("layer").unwrap();
    content
}

#[test]
fn parents_that_are_links_of_the_layer_are_followed_within_it() {
    let rows: [(&str, Tar); 6] = [
        (
            "relative",
            Tar::new()
                .dir("usr/lib")
                .symlink("lib", "usr/lib")
                .file("lib/x", b""),
        ),
        (
            "absolute",
            Tar::new()
                .dir("usr/lib")
                .symlink("lib", "/usr/lib")
                .file("lib/x", b""),
        ),
        (
            "climbing",
            Tar::new()
                .dir("usr/lib")
                .symlink("lib", "../../../usr/lib")
                .file("lib/x", b""),
        ),
        (
            "chained",
            Tar::new()
                .dir("usr/lib")
                .symlink("l2", "usr")
                .symlink("lib", "l2/./lib")
                .file("lib/x", b""),
        ),
        (
            "back",
            Tar::new()
                .dir("usr/lib")
                .symlink("lib", "usr/../usr//lib/")
                .file("lib/x", b""),
        ),
        (
            "hard link",
            Tar::new()
                .file("f", b"")
                .dir("usr/lib")
                .symlink("lib", "usr/lib")
                .hard_link("lib/x", "f"),
        ),
    ];
    for (row, tar) in rows {
        let tree = unpack(tar);
        assert!(
            tree.lines.contains_key("usr/lib/x"),
            "{row}: {:#?}",
            tree.lines
        );
        assert!(tree.line("lib").starts_with("120777"), "{row}");
    }
    // Directories made through a link are those of its target, metadata and all.
    let tree = unpack(
        Tar::new()
            .dir("real")
            .symlink("l", "real")
            .header(Header::new(b'5', "l/d").mode(0o2711).mtime(9))
            .file("l/d/x", b""),
    );
    assert!(
        tree.line("real/d").starts_with("042711 0:0 9.0"),
        "{}",
        tree.line("real/d")
    );
    // What was reached through a link that has been replaced since is not confused with its successor.
    let tree = unpack(
        Tar::new()
            .dir("one")
            .dir("two")
            .symlink("l", "one")
            .file("l/a", b"")
            .symlink("l", "two")
            .file("l/b", b""),
    );
    assert_eq!(tree.names(), ["l", "one", "one/a", "two", "two/b"]);
}

#[test]
fn hard_links_may_come_before_their_targets() {
    let rows = [
        Tar::new().hard_link("a", "z").file("z", b"zz"),
        Tar::new()
            .hard_link("a", "m")
            .hard_link("m", "z")
            .file("z", b"zz"),
        Tar::new()
            .file("a", b"old")
            .hard_link("a", "z")
            .file("z", b"zz"),
        Tar::new()
            .hard_link("a", "z")
            .file("z", b"zz")
            .file(".wh.a", b""),
        Tar::new().hard_link("a", "d/z").file("d/z", b"zz"),
    ];
    for tar in rows {
        let tree = unpack(tar);
        assert!(
            tree.line("a").contains("2 bytes \"zz\""),
            "{:#?}",
            tree.lines
        );
        assert!(tree.line("a").contains("linked a"), "{:#?}", tree.lines);
    }
    let tree = unpack(
        Tar::new()
            .hard_link("a", "z")
            .file("a", b"later")
            .file("z", b"zz"),
    );
    assert!(tree.line("a").contains("5 bytes \"later\""));
}

#[test]
fn hard_links_link_what_is_named_and_not_what_that_names() {
    let tree = unpack(
        Tar::new()
            .symlink("link", "/etc/passwd")
            .hard_link("copy", "link"),
    );
    assert!(tree.line("copy").contains("-> /etc/passwd"));
    assert!(tree.line("link").contains("linked copy"));
    let tree = unpack(
        Tar::new()
            .file("a", b"x")
            .hard_link("a", "./a")
            .put(Header::new(b'1', "b").link("a"), b""),
    );
    assert_eq!(tree.names(), ["a", "b"]);
}

/// Many writers state the size of the file in the header of a hard link; nothing follows it.
#[test]
fn a_hard_link_has_no_content_whatever_its_size() {
    let tar = Tar::new()
        .file("a", b"12345")
        .header(Header::new(b'1', "b").link("a").size(5))
        .file("c", b"");
    assert_eq!(unpack(tar).names(), ["a", "b", "c"]);
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let rows: [(&str, Tar, &str); 8] = [
        (
            "file, file",
            Tar::new().file("x", b"longer").file("x", b"last"),
            "100644 0:0 4 bytes \"last\"",
        ),
        (
            "file, symlink",
            Tar::new().file("x", b"").symlink("x", "y"),
            "120777 0:0 -> y",
        ),
        (
            "symlink, file",
            Tar::new().symlink("x", "y").file("x", b"f"),
            "100644 0:0 1 bytes \"f\"",
        ),
        (
            "directory, file",
            Tar::new().file("x/y/z", b"").file("x", b"f"),
            "100644 0:0 1 bytes \"f\"",
        ),
        (
            "directory, symlink",
            Tar::new().file("x/y/z", b"").symlink("x", "y"),
            "120777 0:0 -> y",
        ),
        (
            "directory, directory",
            Tar::new()
                .dir("x")
                .header(Header::new(b'5', "x").mode(0o700)),
            "040700",
        ),
        (
            "file, fifo",
            Tar::new().file("x", b"").header(Header::new(b'6', "x")),
            "010644",
        ),
        (
            "link, other file",
            Tar::new()
                .file("y", b"y")
                .hard_link("x", "y")
                .file("x", b"own"),
            "100644 0:0 3 bytes \"own\"",
        ),
    ];
    for (row, tar, expected) in rows {
        let tree = unpack(tar);
        assert!(
            tree.line("x").starts_with(expected),
            "{row}: {}",
            tree.line("x")
        );
        assert!(
            !tree.names().iter().any(|name| name.starts_with("x/")),
            "{row}"
        );
    }
    let tree = unpack(
        Tar::new()
            .file("y", b"y")
            .hard_link("x", "y")
            .file("x", b"own"),
    );
    assert!(
        tree.line("y").contains("1 bytes \"y\""),
        "a link replaced leaves the other name alone"
    );
}

#[test]
fn a_directory_replaced_takes_what_was_known_of_it_along() {
    let tar = Tar::new()
        .header(Header::new(b'5', "d").mode(0o700))
        .header(Header::new(b'5', "d/sub").mode(0o711))
        .file("d/sub/f", b"")
        .file("d", b"file")
        .file("d0", b"neighbour")
        .dir("d")
        .file("d/sub/g", b"");
    let tree = unpack(tar);
    assert_eq!(tree.names(), ["d", "d/sub", "d/sub/g", "d0"]);
    assert!(tree.line("d").starts_with("040755"), "{}", tree.line("d"));
    assert!(
        tree.line("d/sub").starts_with("040755"),
        "{}",
        tree.line("d/sub")
    );
    assert_eq!(tree.implied, [&b""[..], b"d/sub"]);
}

#[test]
fn missing_parents_are_made_and_reported() {
    let tree = unpack(Tar::new().file("a/b/c", b"").dir("a").dir("./"));
    assert_eq!(tree.implied, [b"a/b"]);
    assert!(tree.line("a/b").starts_with("040755 0:0"));
    assert_eq!(unpack(Tar::new().dir("./").dir("a")).implied, [b""; 0]);
}

#[test]
fn directories_of_old_archives_are_told_by_their_slash() {
    let old = |name: &str| Header::new(0, name).at(257, &[0; 8]).mode(0o755);
    let tar = Tar::new()
        .header(old("d/"))
        .put(old("d/f"), b"content")
        .header(Header::new(b'0', "e/").mode(0o755));
    let tree = unpack(tar);
    assert!(tree.line("d").starts_with("040755"));
    assert!(tree.line("d/f").contains("7 bytes \"content\""));
    assert!(tree.line("e").starts_with("040755"));
}

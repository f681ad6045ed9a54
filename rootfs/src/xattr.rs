//! Which extended attributes of an archive are written.

/// What becomes of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Written; that it cannot be is an error.
    Write,
    /// Written where the file system and the kind of file can carry it, else dropped with a note.
    WriteIfPossible,
    /// Dropped with a note.
    Drop,
    /// The layer is refused.
    Refuse,
}

/// Judges an attribute by its name; the table is in `SECURITY.md`.
pub(crate) fn judge(name: &[u8]) -> Verdict {
    // The kernel compares names byte for byte, and so does this.
    if OVERLAY.iter().any(|own| name.starts_with(own)) {
        Verdict::Refuse
    } else if name == b"security.capability" {
        Verdict::Write
    } else if POSIX_ACLS.contains(&name)
        || name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
    {
        Verdict::WriteIfPossible
    } else {
        Verdict::Drop
    }
}

const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const POSIX_ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_every_namespace() {
        let rows: [(&[u8], Verdict); 14] = [
            (b"security.capability", Verdict::Write),
            (b"user.comment", Verdict::WriteIfPossible),
            (b"user.overlayer", Verdict::WriteIfPossible),
            (b"trusted.md5", Verdict::WriteIfPossible),
            (b"system.posix_acl_access", Verdict::WriteIfPossible),
            (b"system.nfs4_acl", Verdict::Drop),
            (b"security.selinux", Verdict::Drop),
            (b"security.ima", Verdict::Drop),
            (b"com.apple.provenance", Verdict::Drop),
            (b"trusted.overlay.opaque", Verdict::Refuse),
            (b"trusted.overlay.redirect", Verdict::Refuse),
            (b"trusted.overlay.metacopy", Verdict::Refuse),
            (b"user.overlay.opaque", Verdict::Refuse),
            (b"trusted.overlay.overlay.opaque", Verdict::Refuse),
        ];
        for (name, expected) in rows {
            assert_eq!(judge(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn does_what_the_table_for_owners_says() {
        let document = include_str!("../../SECURITY.md");
        let (_, section) = document
            .split_once("## Extended attributes of an archive\n")
            .unwrap();
        let (table, _) = section.split_once("\n## ").unwrap();
        let words = [
            ("written where ", Verdict::WriteIfPossible),
            ("written", Verdict::Write),
            ("dropped with a note", Verdict::Drop),
            ("the layer is refused", Verdict::Refuse),
        ];
        let mut names = Vec::new();
        for row in table.lines().filter(|line| line.contains('`')) {
            let mut columns = row.split('|').map(str::trim).skip(1);
            let (attributes, fate) = (columns.next().unwrap(), columns.next().unwrap());
            let expected = words.iter().find(|(words, _)| fate.starts_with(words));
            let (_, expected) = expected.unwrap_or_else(|| panic!("{row}"));
            for name in attributes.split('`').skip(1).step_by(2) {
                let example = name.replace('*', "example");
                assert_eq!(judge(example.as_bytes()), *expected, "{name}");
                names.push(name);
            }
        }
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "security.*",
                "security.capability",
                "security.ima",
                "security.selinux",
                "system.*",
                "system.posix_acl_access",
                "system.posix_acl_default",
                "trusted.*",
                "trusted.overlay.*",
                "user.*",
                "user.overlay.*",
            ]
        );
    }
}

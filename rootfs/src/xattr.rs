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

/// Judges an attribute by its name; the list is in the documentation of the crate.
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
}

//! Did you mean ..?

/// The candidate that looks most like `word`, if one looks like it at all.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = normal(word);
    let tolerated = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &normal(candidate)), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Capitals and the choice between `-` and `_` are no difference worth counting.
fn normal(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// The number of insertions, deletions, replacements and swaps of neighbours between two words
/// (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
    let mut before = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut next = vec![i.saturating_add(1)];
        for (j, candidate) in other.iter().enumerate() {
            let replaced = at(&row, j).saturating_add(usize::from(letter != candidate));
            let deleted = at(&row, j.saturating_add(1)).saturating_add(1);
            let inserted = at(&next, j).saturating_add(1);
            let is_swap = i.checked_sub(1).and_then(|i| one.get(i)) == Some(candidate)
                && j.checked_sub(1).and_then(|j| other.get(j)) == Some(letter);
            let swapped = if is_swap {
                at(&before, j.saturating_sub(1))
            } else {
                usize::MAX
            };
            next.push(
                replaced
                    .min(deleted)
                    .min(inserted)
                    .min(swapped.saturating_add(1)),
            );
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_mistakes() {
        let rows = [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
        ];
        for (one, other, expected) in rows {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn suggests_what_was_likely_meant_and_nothing_else() {
        let known = [
            "socket",
            "kbc",
            "image",
            "image_security_policy_uri",
            "work_dir",
        ];
        let rows = [
            ("sockets", Some("socket")),
            ("Socket", Some("socket")),
            ("work-dir", Some("work_dir")),
            ("workdir", Some("work_dir")),
            ("kcb", Some("kbc")),
            ("kbs", Some("kbc")),
            (
                "image_secuirty_policy_url",
                Some("image_security_policy_uri"),
            ),
            ("telemetry", None),
            ("", None),
        ];
        for (word, expected) in rows {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}

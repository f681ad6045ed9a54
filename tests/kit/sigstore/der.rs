//! As much of DER as timestamp tokens and certificate extensions take.

/// A value under `tag`.
pub(super) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("values of the kit are short");
    let [high, low] = length.to_be_bytes();
    let header = match (high, low) {
        (0, ..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header.as_slice(), content].concat()
}

/// A SEQUENCE of these values.
pub(super) fn sequence(values: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &values.concat())
}

/// An OBJECT IDENTIFIER.
pub(super) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = vec![u8::try_from(arcs[0] * 40 + arcs[1]).expect("a legal beginning")];
    for arc in &arcs[2..] {
        let septets = (64 - arc.leading_zeros()).div_ceil(7).max(1);
        for index in (0..septets).rev() {
            let septet = u8::try_from(arc >> (7 * index) & 0x7f).expect("7 bits");
            content.push(if index == 0 { septet } else { septet | 0x80 });
        }
    }
    value(OID, &content)
}

/// The values within a SEQUENCE, each with its header.
pub(super) fn members(sequence: &[u8]) -> Vec<&[u8]> {
    let (header, body) = lengths(sequence);
    let mut rest = &sequence[header..header + body];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (header, body) = lengths(rest);
        let (member, behind) = rest.split_at(header + body);
        found.push(member);
        rest = behind;
    }
    found
}

/// The lengths of the header of a value and of what follows it.
fn lengths(der: &[u8]) -> (usize, usize) {
    match der[1] {
        0x82 => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
        0x81 => (3, usize::from(der[2])),
        short => (2, usize::from(short)),
    }
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// Constructed, context-specific, number 0.
pub(super) const CONTEXT_0: u8 = 0xa0;

//! An SNP attestation report and its certificates, as the verifier's JSON has them.
//!
//! The report is that of the SEV-SNP firmware ABI (AMD 56860), table `ATTESTATION_REPORT`; the
//! certificates come in the table of the GHCB specification (AMD 56421), section 4.1.8.1.

use serde::Serialize;
use serde_json::{Value, json};

/// The evidence of `snp` for a report and a certificate table, which may be empty, for an
/// [`Attester`](crate::Attester) that gets them by its own way.
///
/// # Errors
/// [`SnpError`], if the report is of a version that verifiers do not know, or either is malformed.
pub fn snp_evidence(report: &[u8], certificates: &[u8]) -> Result<Value, SnpError> {
    let report = Report::parse(report)?;
    let certificates = certificate_table(certificates)?;
    let certificates = (!certificates.is_empty()).then_some(certificates);
    Ok(json!({ "attestation_report": report.to_json(), "cert_chain": certificates }))
}

/// Why an SNP report cannot be sent. The firmware or the host is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpError {
    /// The report has another length.
    #[error("expected {REPORT_LENGTH} bytes of SNP report, found {found}")]
    Length {
        /// As received.
        found: usize,
    },
    /// The report has another version, which the verifiers of the KBS refuse.
    #[error("expected version 3, 4 or 5 of the SNP report, found {found}; update the firmware")]
    Version {
        /// As received.
        found: u32,
    },
    /// The certificate table has no end.
    #[error("the table of SNP certificates has no end within its {length} bytes")]
    Endless {
        /// Bytes in all.
        length: usize,
    },
    /// Certificates share bytes: a small table would be sent as a large one.
    #[error("SNP certificates have more bytes than the {available} given")]
    Overlap {
        /// Bytes in all.
        available: usize,
    },
    /// A certificate lies outside of the table's bytes.
    #[error(
        "SNP certificate {index} is at {offset}..+{length}, beyond the {available} bytes given"
    )]
    Outside {
        /// Counted from 0.
        index: usize,
        /// Where it begins.
        offset: u32,
        /// How long it is.
        length: u32,
        /// Bytes in all.
        available: usize,
    },
}

/// A report of known length and version: every field is there.
struct Report<'a> {
    bytes: &'a [u8; REPORT_LENGTH],
    version: u32,
}

impl<'a> Report<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, SnpError> {
        let found = bytes.len();
        let bytes = bytes.try_into().map_err(|_| SnpError::Length { found })?;
        let mut report = Self { bytes, version: 0 };
        report.version = report.u32::<0>();
        if !(3..=5).contains(&report.version) {
            let found = report.version;
            return Err(SnpError::Version { found });
        }
        Ok(report)
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "version": self.version,
            "guest_svn": self.u32::<0x04>(),
            "policy": self.u64::<0x08>(),
            "family_id": self.field::<0x10, 16>(),
            "image_id": self.field::<0x20, 16>(),
            "vmpl": self.u32::<0x30>(),
            "sig_algo": self.u32::<0x34>(),
            "current_tcb": self.tcb::<0x38>(),
            "plat_info": self.u64::<0x40>(),
            "key_info": self.u32::<0x48>(),
            "report_data": self.field::<0x50, 64>(),
            "measurement": self.field::<0x90, 48>(),
            "host_data": self.field::<0xc0, 32>(),
            "id_key_digest": self.field::<0xe0, 48>(),
            "author_key_digest": self.field::<0x110, 48>(),
            "report_id": self.field::<0x140, 32>(),
            "report_id_ma": self.field::<0x160, 32>(),
            "reported_tcb": self.tcb::<0x180>(),
            "cpuid_fam_id": self.u8::<CPU_FAMILY>(),
            "cpuid_mod_id": self.u8::<0x189>(),
            "cpuid_step": self.u8::<0x18a>(),
            "chip_id": self.field::<0x1a0, 64>(),
            "committed_tcb": self.tcb::<0x1e0>(),
            "current": self.firmware::<0x1e8>(),
            "committed": self.firmware::<0x1ec>(),
            "launch_tcb": self.tcb::<0x1f0>(),
            "signature": { "r": self.field::<0x2a0, 72>(), "s": self.field::<0x2e8, 72>() },
        });
        if self.version >= 5
            && let Some(members) = json.as_object_mut()
        {
            members.insert("launch_mit_vector".into(), self.u64::<0x1f8>().into());
            members.insert("current_mit_vector".into(), self.u64::<0x200>().into());
        }
        json
    }

    /// `TCB_VERSION`, whose layout changed with Turin (family 1Ah).
    fn tcb<const AT: usize>(&self) -> Value {
        let [b0, b1, b2, b3, _, _, b6, microcode] = self.array::<AT, 8>();
        if self.u8::<CPU_FAMILY>() >= TURIN {
            json!({ "fmc": b0, "bootloader": b1, "tee": b2, "snp": b3, "microcode": microcode })
        } else {
            json!({ "fmc": null, "bootloader": b0, "tee": b1, "snp": b6, "microcode": microcode })
        }
    }

    fn firmware<const AT: usize>(&self) -> Value {
        let [build, minor, major] = self.array::<AT, 3>();
        json!({ "major": major, "minor": minor, "build": build })
    }

    fn field<const AT: usize, const LENGTH: usize>(&self) -> Vec<u8> {
        self.array::<AT, LENGTH>().to_vec()
    }

    fn u8<const AT: usize>(&self) -> u8 {
        let [byte] = self.array::<AT, 1>();
        byte
    }

    fn u32<const AT: usize>(&self) -> u32 {
        u32::from_le_bytes(self.array::<AT, 4>())
    }

    fn u64<const AT: usize>(&self) -> u64 {
        u64::from_le_bytes(self.array::<AT, 8>())
    }

    /// That the field lies within the report is checked when this is compiled.
    fn array<const AT: usize, const LENGTH: usize>(&self) -> [u8; LENGTH] {
        const { assert!(AT + LENGTH <= REPORT_LENGTH) };
        let mut field = [0; LENGTH];
        for (to, from) in field.iter_mut().zip(self.bytes.iter().skip(AT)) {
            *to = *from;
        }
        field
    }
}

/// A certificate, or a list of revoked ones, in DER.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Certificate {
    cert_type: Value,
    data: Vec<u8>,
}

/// Entries of 16 bytes of GUID, offset and length, up to one of zeros; then the certificates.
fn certificate_table(table: &[u8]) -> Result<Vec<Certificate>, SnpError> {
    let mut certificates = Vec::new();
    let available = table.len();
    let mut unclaimed = available;
    if table.is_empty() {
        return Ok(certificates);
    }
    for (index, entry) in table.chunks(24).enumerate() {
        let Some((guid, offset, length)) = table_entry(entry) else {
            break;
        };
        if guid == [0; 16] {
            return Ok(certificates);
        }
        let data = usize::try_from(offset)
            .ok()
            .and_then(|offset| table.get(offset..))
            .and_then(|rest| rest.get(..usize::try_from(length).ok()?));
        let data = data.ok_or(SnpError::Outside {
            index,
            offset,
            length,
            available,
        })?;
        unclaimed = unclaimed
            .checked_sub(data.len())
            .ok_or(SnpError::Overlap { available })?;
        certificates.push(Certificate {
            cert_type: certificate_type(guid),
            data: data.to_vec(),
        });
    }
    Err(SnpError::Endless { length: available })
}

fn table_entry(entry: &[u8]) -> Option<([u8; 16], u32, u32)> {
    let (guid, rest) = entry.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let (length, _) = rest.split_first_chunk()?;
    Some((
        *guid,
        u32::from_le_bytes(*offset),
        u32::from_le_bytes(*length),
    ))
}

fn certificate_type(guid: [u8; 16]) -> Value {
    let text = guid_text(guid);
    let known = CERTIFICATE_TYPES.iter().find(|(known, _)| *known == text);
    match known {
        Some((_, name)) => (*name).into(),
        None => json!({ "OTHER": text }),
    }
}

/// RFC 9562 section 4: the bytes in order.
fn guid_text(guid: [u8; 16]) -> String {
    let digits: Vec<String> = guid.iter().map(|byte| format!("{byte:02x}")).collect();
    let group = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default().concat();
    [
        group(0..4),
        group(4..6),
        group(6..8),
        group(8..10),
        group(10..16),
    ]
    .join("-")
}

const REPORT_LENGTH: usize = 1184;
const CPU_FAMILY: usize = 0x188;
const TURIN: u8 = 0x1a;
const CERTIFICATE_TYPES: [(&str, &str); 5] = [
    ("c0b406a4-a803-4952-9743-3fb6014cd0ae", "ARK"),
    ("4ab7b379-bbac-4fe4-a02f-05aef327c782", "ASK"),
    ("63da758d-e664-4564-adc5-f4b93be8accd", "VCEK"),
    ("a8074bc2-a25a-483e-aae6-39c045a0b8a1", "VLEK"),
    ("92f81bc3-5811-4d3d-97ff-d19f88dc67ea", "CRL"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte tells its place, as far as a byte can.
    fn report(version: u32, family: u8) -> Vec<u8> {
        let mut report: Vec<u8> = (0..REPORT_LENGTH)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        report[..4].copy_from_slice(&version.to_le_bytes());
        report[CPU_FAMILY] = family;
        report
    }

    fn at(place: usize) -> u8 {
        u8::try_from(place % 251).unwrap()
    }

    fn guid(text: &str) -> Vec<u8> {
        let digits = text.replace('-', "");
        (0..16)
            .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap())
            .collect()
    }

    fn entry(guid_of: &str, offset: u32, length: u32) -> Vec<u8> {
        let (offset, length) = (offset.to_le_bytes(), length.to_le_bytes());
        [guid(guid_of), offset.to_vec(), length.to_vec()].concat()
    }

    #[test]
    fn fields_are_where_the_abi_has_them() {
        let json = snp_evidence(&report(3, 0x19), &[]).unwrap();
        assert_eq!(json["cert_chain"], Value::Null);
        let json = &json["attestation_report"];
        let number = |place: usize, length: usize| -> u64 {
            let bytes = (place..place + length).rev();
            bytes.fold(0, |sum, place| sum << 8 | u64::from(at(place)))
        };
        let rows = [
            ("/version", json!(3)),
            ("/guest_svn", json!(number(0x04, 4))),
            ("/policy", json!(number(0x08, 8))),
            ("/vmpl", json!(number(0x30, 4))),
            ("/plat_info", json!(number(0x40, 8))),
            ("/key_info", json!(number(0x48, 4))),
            ("/report_data/0", json!(at(0x50))),
            ("/report_data/63", json!(at(0x8f))),
            ("/measurement/47", json!(at(0xbf))),
            ("/host_data/31", json!(at(0xdf))),
            ("/report_id_ma/31", json!(at(0x17f))),
            ("/cpuid_fam_id", json!(0x19)),
            ("/cpuid_step", json!(at(0x18a))),
            ("/chip_id/0", json!(at(0x1a0))),
            ("/chip_id/63", json!(at(0x1df))),
            ("/current/build", json!(at(0x1e8))),
            ("/current/major", json!(at(0x1ea))),
            ("/committed/minor", json!(at(0x1ed))),
            ("/signature/r/0", json!(at(0x2a0))),
            ("/signature/s/71", json!(at(0x32f))),
        ];
        for (pointer, expected) in rows {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert_eq!(json.get("launch_mit_vector"), None);
    }

    #[test]
    fn tcb_is_read_as_the_family_has_it() {
        let tcb = |family| {
            let json = snp_evidence(&report(5, family), &[]).unwrap();
            json["attestation_report"]["reported_tcb"].clone()
        };
        assert_eq!(
            tcb(0x19),
            json!({ "fmc": null, "bootloader": at(0x180), "tee": at(0x181), "snp": at(0x186),
                "microcode": at(0x187) })
        );
        assert_eq!(
            tcb(0x1a),
            json!({ "fmc": at(0x180), "bootloader": at(0x181), "tee": at(0x182),
                "snp": at(0x183), "microcode": at(0x187) })
        );
    }

    #[test]
    fn mitigation_vectors_come_with_version_5() {
        let json = snp_evidence(&report(5, 0x19), &[]).unwrap();
        let vector = &json["attestation_report"]["launch_mit_vector"];
        assert_eq!(vector.as_u64().unwrap() & 0xff, u64::from(at(0x1f8)));
    }

    #[test]
    fn other_lengths_and_versions_are_refused() {
        for length in [0, 4, REPORT_LENGTH - 1, REPORT_LENGTH + 1] {
            let fault = SnpError::Length { found: length };
            assert_eq!(snp_evidence(&vec![3; length], &[]), Err(fault));
        }
        for version in [0, 2, 6] {
            let fault = SnpError::Version { found: version };
            assert_eq!(snp_evidence(&report(version, 0x19), &[]), Err(fault));
        }
    }

    #[test]
    fn certificates_are_named_by_their_guid() {
        let other = "00112233-4455-6677-8899-aabbccddeeff";
        let table = [
            entry("63da758d-e664-4564-adc5-f4b93be8accd", 72, 2),
            entry(other, 74, 1),
            vec![0; 24],
            vec![1, 2, 3],
        ]
        .concat();
        let json = snp_evidence(&report(3, 0x19), &table).unwrap();
        let expected = json!([
            { "cert_type": "VCEK", "data": [1, 2] },
            { "cert_type": { "OTHER": other }, "data": [3] },
        ]);
        assert_eq!(json["cert_chain"], expected);
        for (guid, name) in CERTIFICATE_TYPES {
            let table = [entry(guid, 0, 0), vec![0; 24]].concat();
            assert_eq!(certificate_table(&table).unwrap()[0].cert_type, json!(name));
        }
    }

    #[test]
    fn table_that_points_elsewhere_or_has_no_end_is_refused() {
        let vcek = "63da758d-e664-4564-adc5-f4b93be8accd";
        for (offset, length) in [(48, 1), (0, 49), (u32::MAX, u32::MAX), (49, 0)] {
            let table = [entry(vcek, offset, length), vec![0; 24]].concat();
            let fault = SnpError::Outside {
                index: 0,
                offset,
                length,
                available: 48,
            };
            assert_eq!(certificate_table(&table), Err(fault));
        }
        for cut in 1..48 {
            let table = [entry(vcek, 0, 0), vec![0; 24]].concat();
            let fault = SnpError::Endless { length: cut };
            assert_eq!(certificate_table(&table[..cut]), Err(fault), "{cut} bytes");
        }
    }

    #[test]
    fn table_that_names_its_bytes_many_times_is_refused() {
        let vcek = "63da758d-e664-4564-adc5-f4b93be8accd";
        let table = [entry(vcek, 0, 72), entry(vcek, 0, 1), vec![0; 24]].concat();
        let fault = SnpError::Overlap { available: 72 };
        assert_eq!(certificate_table(&table), Err(fault));
    }

    #[test]
    fn no_byte_of_a_certificate_table_does_more_than_fail() {
        let vcek = "63da758d-e664-4564-adc5-f4b93be8accd";
        let whole = [
            entry(vcek, 72, 2),
            entry(vcek, 74, 6),
            vec![0; 24],
            vec![7; 8],
        ]
        .concat();
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut mutated = whole.clone();
                mutated[at] = byte;
                if let Ok(certificates) = certificate_table(&mutated) {
                    let given: usize = certificates.iter().map(|found| found.data.len()).sum();
                    assert!(given <= mutated.len());
                }
            }
        }
    }
}

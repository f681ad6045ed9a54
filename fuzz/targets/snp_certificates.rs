//! What an SNP certificate table names is bytes of the table, and no more than there are.
#![no_main]

use fuzz::assert_printable;
use kbs_client::snp_evidence;
use libfuzzer_sys::fuzz_target;

const REPORT_LENGTH: usize = 1184;

fuzz_target!(|table: &[u8]| {
    let mut report = vec![0; REPORT_LENGTH];
    report[0] = 3;
    let evidence = match snp_evidence(&report, table) {
        Ok(evidence) => evidence,
        Err(error) => return assert_printable(&error),
    };
    let certificates = evidence["cert_chain"].as_array();
    let mut named = 0;
    for certificate in certificates.into_iter().flatten() {
        let kind = &certificate["cert_type"];
        assert!(kind.is_string() || kind["OTHER"].as_str().unwrap().len() == 36);
        let bytes: Vec<u8> = serde_json::from_value(certificate["data"].clone()).unwrap();
        named += bytes.len();
        assert!(bytes.is_empty() || table.windows(bytes.len()).any(|part| part == bytes));
    }
    assert!(named <= table.len());
});

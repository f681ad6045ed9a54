//! A statement has one reading, and none under another payload type.
#![no_main]

use fuzz::assert_printable;
use fuzz::honest::STATEMENT;
use libfuzzer_sys::fuzz_target;
use policy::UntrustedStatement;

const IN_TOTO: &str = "application/vnd.in-toto+json";

fuzz_target!(|data: &[u8]| {
    let statement = UntrustedStatement::parse(IN_TOTO, data);
    if let Err(problem) = &statement {
        assert!(data != STATEMENT, "{problem}");
        assert_printable(problem);
    }
    let spaced = [data, b"\n"].concat();
    let again = UntrustedStatement::parse(IN_TOTO, &spaced);
    assert_eq!(format!("{:?}", statement.ok()), format!("{:?}", again.ok()));
    assert!(UntrustedStatement::parse("application/json", data).is_err());
});

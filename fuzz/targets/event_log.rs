//! The log that is sent is the firmware's up to its end, the agent's, and a mark; what was cut once
//! is not cut again.
//!
//! An input is the length of the agent's log in a byte, the firmware's log, and the agent's.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fuzz::assert_printable;
use kbs_client::{EventLogError, tdx_evidence};
use libfuzzer_sys::fuzz_target;

const END: [u8; 8] = [0xff; 8];

fuzz_target!(|data: &[u8]| {
    let Some((length, logs)) = data.split_first() else {
        return;
    };
    let of_agent = logs.len().saturating_sub(usize::from(*length));
    let (firmware, agent) = logs.split_at(of_agent);
    let sent = match sent(firmware, Some(agent)) {
        Ok(sent) => sent,
        Err(error) => return assert_printable(&error),
    };
    let cut = sent.len() - END.len() - agent.len();
    assert_eq!(sent, [&firmware[..cut], agent, &END].concat());
    let rest = &firmware[cut..];
    assert!(rest.is_empty() || rest.starts_with(&END) || rest.starts_with(&[0; 8]));
    let alone = self::sent(firmware, None).unwrap();
    assert_eq!(self::sent(&alone, None), Ok(alone));
});

fn sent(firmware: &[u8], agent: Option<&[u8]>) -> Result<Vec<u8>, EventLogError> {
    let evidence = tdx_evidence(b"quote", Some(firmware), agent)?;
    let log = evidence["cc_eventlog"].as_str().unwrap();
    Ok(STANDARD.decode(log).unwrap())
}

//! Runs the conformance vectors for registries.conf, auth.json and certs.d against this crate.
//!
//! `registry_conformance DIR`, where DIR holds one `AREA.json` per area. Prints a line per area and
//! every vector that went wrong; ends with an error when anything was wrongly accepted or more than
//! [`TOLERATED_REFUSALS`] were wrongly refused.

#![expect(
    clippy::print_stdout,
    reason = "a report on standard output is the purpose"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::auth::{AuthFile, Found};
use agent::certs::Certificates;
use agent::registries::{Registries, Transport};
use policy::ImageRef;
use serde_json::{Value, json};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .ok_or("usage: registry_conformance DIR")?;
    let directory = PathBuf::from(directory).canonicalize()?;
    let mut total = Tally::default();
    for (area, check) in AREAS {
        let tally = run(area, check, &directory)?;
        println!("{area:24} {}", tally.line());
        total.add(tally);
    }
    println!("{:24} {}", "total", total.line());
    total.details.iter().for_each(|line| println!("{line}"));
    let passed = total.accepted == 0 && total.refused <= TOLERATED_REFUSALS;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What this crate makes of a vector: a result in the form of the vector's, or a refusal.
type Check = fn(&Value) -> Result<Value, Box<dyn Error>>;

const AREAS: [(&str, Check); 4] = [
    ("registries-conf", registries_conf),
    ("registries-prefix-match", prefix_match),
    ("auth-json", auth_json),
    ("certs-d", certs_d),
];

/// Where this crate differs on purpose, by area and name, and why.
const DELIBERATE: [(&str, &str, &str); 3] = [
    (
        "auth-json",
        "username/password fields are ignored",
        "a user name and a password are credentials, as docker has it",
    ),
    (
        "registries-conf",
        "rewrite prefix=*.example.com location=m.com ref=a.example.com.example.com/x:1",
        TWICE,
    ),
    (
        "registries-prefix-match",
        "a.example.com.example.com/x vs *.example.com",
        TWICE,
    ),
];

const TWICE: &str = "a subdomain whose name has the domain twice is one, and so is blocked with it";
const TOLERATED_REFUSALS: usize = 5;

fn run(area: &str, check: Check, directory: &Path) -> Result<Tally, Box<dyn Error>> {
    let document = std::fs::read(directory.join(format!("{area}.json")))?;
    let document: Value = serde_json::from_slice(&document)?;
    let vectors = document.get("vectors").and_then(Value::as_array);
    let vectors = vectors
        .filter(|vectors| !vectors.is_empty())
        .ok_or("no vectors")?;
    let mut tally = Tally::default();
    for vector in vectors {
        tally.count(area, vector, check(vector));
    }
    Ok(tally)
}

#[derive(Default)]
struct Tally {
    passed: usize,
    accepted: usize,
    refused: usize,
    deliberate: usize,
    details: Vec<String>,
}

impl Tally {
    fn count(&mut self, area: &str, vector: &Value, answer: Result<Value, Box<dyn Error>>) {
        let name = text(vector, "name");
        let tolerates = |outcome: &str| {
            let tolerated = vector.get("tolerate").and_then(Value::as_array);
            tolerated.is_some_and(|list| list.iter().any(|item| item == outcome))
        };
        let expects_acceptance = text(vector, "expect") == "accept";
        let (wrong, why) = match answer {
            Err(_) if !expects_acceptance || tolerates("reject") => return self.passed += 1,
            Err(error) => ("wrongly refused", error.to_string()),
            Ok(_) if !expects_acceptance && tolerates("accept") => return self.passed += 1,
            Ok(_) if !expects_acceptance => ("wrongly accepted", text(vector, "reason").to_owned()),
            Ok(found) => match difference(vector, &found, tolerates("more-restrictive")) {
                None => return self.passed += 1,
                Some(difference) => ("wrong result", difference),
            },
        };
        let deliberate = DELIBERATE.iter();
        let mut deliberate = deliberate.filter(|row| row.0 == area && row.1 == name);
        let (wrong, why) = match deliberate.next() {
            Some((_, _, reason)) => ("deliberate", (*reason).to_owned()),
            None => (wrong, why),
        };
        match wrong {
            "deliberate" => self.deliberate += 1,
            "wrongly refused" => self.refused += 1,
            _ => self.accepted += 1,
        }
        self.details.push(format!("{wrong}: {area}: {name}: {why}"));
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.deliberate += other.deliberate;
        self.details.extend(other.details);
    }

    fn line(&self) -> String {
        format!(
            "passed {:4}  wrongly accepted {}  wrongly refused {}  deliberate {}",
            self.passed, self.accepted, self.refused, self.deliberate
        )
    }
}

/// How what was found differs from what the vector has, if it does.
fn difference(vector: &Value, found: &Value, may_block_more: bool) -> Option<String> {
    if let Some(any) = vector.get("result_any_of").and_then(Value::as_array) {
        return (!any.contains(found)).then(|| format!("found {found}"));
    }
    let expected = match vector.get("length") {
        Some(length) => length,
        None => vector.get("result").unwrap_or(&Value::Null),
    };
    let same = |key: &str| match (key, may_block_more) {
        ("sources", true) => with_blocks_of(&expected["sources"], found.get("sources")),
        _ => found.get(key) == expected.get(key),
    };
    // What has no effect here, such as the registries that are never searched, is not kept.
    let is_same = match found.as_object() {
        Some(members) => members.keys().all(|key| same(key)),
        None => found == expected,
    };
    (!is_same).then(|| format!("expected {expected}, found {found}"))
}

/// Whether `found` are the sources that are expected, some more of them blocked.
fn with_blocks_of(expected: &Value, found: Option<&Value>) -> bool {
    let (Some(expected), Some(found)) = (
        expected.as_array(),
        found.and_then(|found| found.as_array()),
    ) else {
        return false;
    };
    let same = |(one, other): (&Value, &Value)| {
        one["reference"] == other["reference"]
            && one["insecure"] == other["insecure"]
            && (one["blocked"] == other["blocked"] || other["blocked"] == true)
    };
    expected.len() == found.len() && expected.iter().zip(found).all(same)
}

fn registries_conf(vector: &Value) -> Result<Value, Box<dyn Error>> {
    let files = vector.get("files").and_then(Value::as_object);
    let files = files.ok_or("no files")?;
    let of = |name: &str| files.get(name).and_then(Value::as_str);
    let drop_ins: BTreeMap<&String, &str> = files
        .iter()
        .filter(|(name, _)| is_drop_in(name))
        .filter_map(|(name, text)| Some((name, text.as_str()?)))
        .collect();
    let main = of("registries.conf").into_iter();
    let (registries, _) = Registries::parse_all(main.chain(drop_ins.into_values()))?;
    match text(vector, "kind") {
        "config" => {
            let mut prefixes = registries.prefixes();
            prefixes.sort_unstable();
            Ok(json!({ "prefixes": prefixes }))
        }
        "alias" => alias(&registries, vector),
        _ => resolve(&registries, text(vector, "reference")),
    }
}

fn is_drop_in(name: &str) -> bool {
    let inside = name.strip_prefix("registries.conf.d/");
    inside.is_some_and(|name| name.strip_suffix(".conf").is_some() && !name.contains('/'))
}

fn alias(registries: &Registries, vector: &Value) -> Result<Value, Box<dyn Error>> {
    let short = text(vector, "reference");
    if short.contains([':', '@']) {
        return Err("an alias has neither tag nor digest".into());
    }
    let Some(full) = registries.alias(short) else {
        return Ok(Value::Null);
    };
    let full: ImageRef = full.parse()?;
    Ok(json!(full.name()))
}

fn resolve(registries: &Registries, reference: &str) -> Result<Value, Box<dyn Error>> {
    let image = ImageRef::parse_edge(reference)?;
    let asked = image.as_asked();
    let rest = asked.strip_prefix(&image.name()).unwrap_or_default();
    let sources = registries.endpoints(&image)?.into_iter().map(|endpoint| {
        json!({
            "reference": format!("{}/{}{rest}", endpoint.host, endpoint.repository),
            "insecure": endpoint.transport == Transport::PlainHttp,
            "blocked": endpoint.blocked,
        })
    });
    Ok(json!({ "sources": sources.collect::<Vec<_>>() }))
}

fn prefix_match(vector: &Value) -> Result<Value, Box<dyn Error>> {
    let prefix = text(vector, "prefix");
    let length = Registries::matched(prefix, text(vector, "reference"));
    Ok(json!(length.ok_or("no match")?))
}

fn auth_json(vector: &Value) -> Result<Value, Box<dyn Error>> {
    let file = AuthFile::parse(text(vector, "file").as_bytes())?;
    let key = text(vector, "key");
    let (host, repository) = key.split_once('/').unwrap_or((key, ""));
    match file.find(host, repository) {
        Found::Nothing | Found::Store { .. } => Ok(Value::Null),
        Found::Login { login, .. } => Ok(json!({
            "username": login.user(),
            "password": login.password(),
            "identitytoken": login.identity_token().unwrap_or_default(),
        })),
        Found::Helper { helper } => Err(format!("docker-credential-{helper} is not run").into()),
    }
}

fn certs_d(vector: &Value) -> Result<Value, Box<dyn Error>> {
    let files = vector.get("files").and_then(Value::as_object);
    let files = files.ok_or("no files")?.iter();
    let files = files.map(|(name, content)| {
        let content = content.as_str().unwrap_or_default();
        (name.clone(), content.as_bytes().to_vec())
    });
    let found = Certificates::parse(&files.collect())?;
    Ok(json!({
        "custom_ca_pool": !found.authorities.is_empty(),
        "client_certificates": found.clients.len(),
    }))
}

fn text<'v>(vector: &'v Value, key: &str) -> &'v str {
    vector.get(key).and_then(Value::as_str).unwrap_or_default()
}

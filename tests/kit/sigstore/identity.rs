//! Who a certificate says has signed.

use rcgen::{CertificateParams, CustomExtension, SanType};

use super::der;

/// The subject alternative names, the issuer of the identity token and the other claims that Fulcio
/// writes into a certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    names: Vec<SanType>,
    issuer: String,
    forms: IssuerForms,
    claims: Vec<(u64, ClaimForm, String)>,
}

/// In which of its two extensions the issuer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerForms {
    /// 1.3.6.1.4.1.57264.1.1, the bare text.
    First,
    /// 1.3.6.1.4.1.57264.1.8, a DER `UTF8String`.
    Second,
    /// Both, as Fulcio does today.
    Both,
    /// Neither.
    Missing,
}

#[derive(Debug, Clone, Copy)]
enum ClaimForm {
    Bare,
    Der,
}

impl Identity {
    /// A person with a mail address.
    pub fn email(address: &str, issuer: &str) -> Self {
        Self::nobody(issuer).and_email(address)
    }

    /// A URI, such as a SPIFFE ID.
    pub fn uri(uri: &str, issuer: &str) -> Self {
        Self::nobody(issuer).and_uri(uri)
    }

    /// A run of a workflow on GitHub: `repository` is `owner/name`, `workflow` a file name.
    pub fn github(repository: &str, workflow: &str, reference: &str) -> Self {
        let url = format!("https://github.com/{repository}");
        let workflow_url = format!("{url}/.github/workflows/{workflow}@{reference}");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let bare = [
            (2, "push"),
            (3, commit),
            (4, "release"),
            (5, repository),
            (6, reference),
        ];
        let encoded = [
            (9, workflow_url.as_str()),
            (11, "github-hosted"),
            (12, &url),
            (13, commit),
            (14, reference),
            (18, &workflow_url),
            (20, "push"),
        ];
        let bare = bare.map(|(number, text)| (number, ClaimForm::Bare, text.to_owned()));
        let encoded = encoded.map(|(number, text)| (number, ClaimForm::Der, text.to_owned()));
        let mut identity = Self::uri(&workflow_url, GITHUB_ISSUER);
        identity.claims.extend(bare);
        identity.claims.extend(encoded);
        identity
    }

    /// Without any name.
    pub fn nobody(issuer: &str) -> Self {
        Self {
            names: Vec::new(),
            issuer: issuer.to_owned(),
            forms: IssuerForms::Both,
            claims: Vec::new(),
        }
    }

    /// With one more mail address.
    #[must_use]
    pub fn and_email(mut self, address: &str) -> Self {
        let address = address.try_into().expect("ASCII");
        self.names.push(SanType::Rfc822Name(address));
        self
    }

    /// With one more URI.
    #[must_use]
    pub fn and_uri(mut self, uri: &str) -> Self {
        self.names
            .push(SanType::URI(uri.try_into().expect("ASCII")));
        self
    }

    /// With one more DNS name.
    #[must_use]
    pub fn and_dns(mut self, name: &str) -> Self {
        self.names
            .push(SanType::DnsName(name.try_into().expect("ASCII")));
        self
    }

    /// With one more of Fulcio's user names, an `otherName`.
    #[must_use]
    pub fn and_username(mut self, name: &str) -> Self {
        let oid = FULCIO.iter().copied().chain([7]).collect();
        self.names.push(SanType::OtherName((oid, name.into())));
        self
    }

    /// With the issuer in these extensions.
    #[must_use]
    pub fn issuer_forms(mut self, forms: IssuerForms) -> Self {
        self.forms = forms;
        self
    }

    pub(super) fn write(&self, params: &mut CertificateParams) {
        params.subject_alt_names.clone_from(&self.names);
        let first = (1, ClaimForm::Bare, self.issuer.clone());
        let second = (8, ClaimForm::Der, self.issuer.clone());
        let issuer = match self.forms {
            IssuerForms::First => vec![first],
            IssuerForms::Second => vec![second],
            IssuerForms::Both => vec![first, second],
            IssuerForms::Missing => Vec::new(),
        };
        params.custom_extensions = issuer
            .iter()
            .chain(&self.claims)
            .map(|(number, form, text)| claim(*number, *form, text))
            .collect();
    }
}

fn claim(number: u64, form: ClaimForm, text: &str) -> CustomExtension {
    let oid: Vec<u64> = FULCIO.iter().copied().chain([number]).collect();
    let content = match form {
        ClaimForm::Bare => text.as_bytes().to_vec(),
        ClaimForm::Der => der::value(der::UTF8_STRING, text.as_bytes()),
    };
    let mut extension = CustomExtension::from_oid_content(&oid, content);
    extension.set_criticality(false);
    extension
}

/// The issuer of GitHub's identity tokens.
pub const GITHUB_ISSUER: &str = "https://token.actions.githubusercontent.com";
const FULCIO: [u64; 8] = [1, 3, 6, 1, 4, 1, 57264, 1];

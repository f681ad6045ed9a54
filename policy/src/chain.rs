//! The certificates of an authority in a trusted root, the root itself last, and whether they lead to
//! a signer's.
//!
//! The engine takes each of them for an anchor and judges what is below it. So what is left to judge
//! is what is above: by `webpki` once, and from then on only the times.

use std::sync::atomic::{AtomicBool, Ordering};

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::authority::{CertificateProblem, Root, build_path, issuers, path_problem};
use crate::certificate::{Certificate, CertificateError};

/// The certificates of an authority.
#[derive(Debug)]
pub(crate) struct Chain {
    root: Root,
    intermediates: Vec<CertificateDer<'static>>,
    /// Those between, the one that issues to signers first.
    between: Vec<Certificate>,
    /// Whether a path was built by way of all of `between`. Signatures do not age, so that from then
    /// on only their validity is to be judged.
    is_proved: AtomicBool,
}

impl Chain {
    pub(crate) fn new(mut certificates: Vec<Certificate>) -> Result<Self, CertificateError> {
        let root = certificates.pop().ok_or(CertificateError::None)?;
        Ok(Self {
            root: Root::new(root)?,
            intermediates: issuers(&certificates)?,
            is_proved: AtomicBool::new(certificates.is_empty()),
            between: certificates,
        })
    }

    /// Whether a path of certificates that are all valid at that time leads from the root to
    /// `leaf`, also by way of those that came with it.
    pub(crate) fn leads_to(
        &self,
        leaf: &Certificate,
        supplied: &[Certificate],
        time: u64,
    ) -> Result<(), CertificateProblem> {
        let mut intermediates = issuers(supplied).map_err(CertificateProblem::ChainDer)?;
        intermediates.extend(self.intermediates.iter().cloned());
        let end = EndEntityCert::try_from(leaf.der()).map_err(|error| path_problem(&error))?;
        build_path(std::slice::from_ref(&self.root), &end, &intermediates, time)?;
        if supplied.is_empty() && self.issues_to(leaf) && self.is_plain() {
            self.is_proved.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether one of the certificates has the name that `leaf` has for its issuer.
    pub(crate) fn may_have_issued(&self, leaf: &Certificate) -> bool {
        self.all().any(|one| one.subject() == leaf.issuer())
    }

    /// Whether [`Chain::leads_to`] holds for every certificate without others beside it that the
    /// lowest one here has issued, as it did for one already, but for the times: of these, all here
    /// are valid at `time`.
    pub(crate) fn is_known_to_lead_to(&self, leaf: &Certificate, time: u64) -> bool {
        self.is_proved.load(Ordering::Relaxed)
            && self.issues_to(leaf)
            && self.between.iter().all(|one| one.is_valid_at(time))
            && self.root.may_issue_at(time)
    }

    /// Whether the lowest one, and no other, has the name of the issuer of `leaf`.
    fn issues_to(&self, leaf: &Certificate) -> bool {
        let mut names = self.all().map(|one| one.subject() == leaf.issuer());
        names.next().unwrap_or_default() && !names.any(|is_issuer| is_issuer)
    }

    /// Whether each has the next one's name for its issuer and no other does, so that any path from
    /// the lowest one is by way of all of them; and whether the names of who is below are nothing to
    /// them, so that one path is as good as another.
    fn is_plain(&self) -> bool {
        let names = self.all().skip(1).map(Certificate::subject);
        let distinct = self.all().enumerate().all(|(place, one)| {
            let mut later = self.all().skip(place.saturating_add(1));
            later.all(|other| other.subject() != one.subject())
        });
        let is_free = !self.all().any(Certificate::constrains_names);
        is_free && distinct && self.between.iter().map(Certificate::issuer).eq(names)
    }

    fn all(&self) -> impl Iterator<Item = &Certificate> {
        self.between.iter().chain([&self.root.certificate])
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
        Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
    };

    use super::*;

    /// 2024-06-15.
    const DURING: u64 = 1_718_409_600;
    /// 2026-06-15.
    const AFTER: u64 = 1_781_481_600;

    /// Parameters of a certificate that is valid in 2024.
    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2024, 12, 31);
        params
    }

    fn authority(name: &str) -> CertificateParams {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    /// An authority of a root and an intermediate of that name, and two signers' certificates.
    fn mint(root: CertificateParams, below: &str) -> (Chain, [Certificate; 2]) {
        let parse = |der: &[u8]| Certificate::from_der(der.to_vec()).unwrap();
        let key = || KeyPair::generate().unwrap();
        let root_key = key();
        let root_der = root.self_signed(&root_key).unwrap();
        let root = Issuer::new(root, root_key);
        let (middle, middle_key) = (authority(below), key());
        let middle_der = middle.signed_by(&middle_key, &root).unwrap();
        let middle = Issuer::new(middle, middle_key);
        let leaf = |name: &str| {
            let mut params = named("");
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            parse(params.signed_by(&key(), &middle).unwrap().der())
        };
        let chain = [middle_der, root_der].map(|one| parse(one.der()));
        let chain = Chain::new(chain.into()).unwrap();
        (chain, [leaf("a.example"), leaf("b.example")])
    }

    #[test]
    fn path_that_was_built_once_is_known_in_its_time() {
        let (chain, [one, other]) = mint(authority("root"), "below");
        assert!(chain.may_have_issued(&one));
        assert!(!chain.is_known_to_lead_to(&one, DURING));
        assert!(chain.leads_to(&one, &[], AFTER).is_err());
        assert!(!chain.is_known_to_lead_to(&one, DURING));
        chain.leads_to(&one, &[], DURING).unwrap();
        for leaf in [&one, &other] {
            assert!(chain.is_known_to_lead_to(leaf, DURING));
            assert!(!chain.is_known_to_lead_to(leaf, AFTER));
        }
    }

    #[test]
    fn issuer_of_another_name_or_one_of_two_is_not_known() {
        let (chain, [one, _]) = mint(authority("root"), "below");
        chain.leads_to(&one, &[], DURING).unwrap();
        let (_, [stranger, _]) = mint(authority("root"), "elsewhere");
        assert!(!chain.may_have_issued(&stranger));
        assert!(!chain.is_known_to_lead_to(&stranger, DURING));
        let (chain, [one, _]) = mint(authority("same"), "same");
        chain.leads_to(&one, &[], DURING).unwrap();
        assert!(!chain.is_known_to_lead_to(&one, DURING));
    }

    #[test]
    fn authority_that_may_not_issue_for_all_names_is_asked_each_time() {
        let mut root = authority("root");
        root.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("a.example".to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let (chain, [allowed, other]) = mint(root, "below");
        chain.leads_to(&allowed, &[], DURING).unwrap();
        assert!(!chain.is_known_to_lead_to(&other, DURING));
        assert!(matches!(
            chain.leads_to(&other, &[], DURING),
            Err(CertificateProblem::Path { .. })
        ));
    }
}

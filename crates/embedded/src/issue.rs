//! Authorities and certificates as pairs of files (ECDSA P-256).
//!
//! Beside each certificate a note says what it was made for and when it is to be made
//! anew, so that no certificate needs to be taken apart.

use std::fs;
use std::path::Path;

use farplane_types::names::digest_id;
use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::error::Error;
use crate::files::{Files, write};
use crate::keys::{AUTHORITIES, Leaf};

const AUTHORITY_LIFE: Duration = Duration::days(3650);
const LEAF_LIFE: Duration = Duration::days(365);
/// Clocks within a machine agree; after a correction backwards they still do.
const BACKDATE: Duration = Duration::hours(1);

/// What a certificate was made for.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    purpose: String,
    /// Unix seconds: half of its life.
    renew_at: i64,
}

/// Makes authorities, the service account key and certificates that are missing, due,
/// or for other names or addresses than wanted.
pub(crate) fn ensure(leaves: &[Leaf], files: &Files) -> Result<(), Error> {
    let dir = files.pki();
    for name in AUTHORITIES {
        ensure_authority(&dir, name)?;
    }
    if !dir.join("sa.key").exists() {
        let key = generate("sa")?;
        write(&dir.join("sa.pub"), key.public_key_pem().as_bytes(), 0o600)?;
        write(&dir.join("sa.key"), key.serialize_pem().as_bytes(), 0o600)?;
    }
    for leaf in leaves {
        ensure_leaf(&dir, leaf)?;
    }
    Ok(())
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Keys { name, source }
}

fn generate(name: &str) -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed(name))
}

fn read(dir: &Path, file: &str) -> Result<String, Error> {
    let path = dir.join(file);
    fs::read_to_string(&path).map_err(Error::file("read", path))
}

fn params(common_name: &str, organization: Option<&str>, life: Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    params
}

fn ensure_authority(dir: &Path, name: &str) -> Result<(), Error> {
    // The certificate is written last, so a pair is whole or not there.
    if dir.join(format!("{name}.crt")).exists() {
        return Ok(());
    }
    let key = generate(name)?;
    let mut params = params(&format!("farplane-hub-{name}"), None, AUTHORITY_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = params.self_signed(&key).map_err(failed(name))?;
    write(
        &dir.join(format!("{name}.key")),
        key.serialize_pem().as_bytes(),
        0o600,
    )?;
    write(
        &dir.join(format!("{name}.crt")),
        certificate.pem().as_bytes(),
        0o644,
    )
    .map(|_| ())
}

fn ensure_leaf(dir: &Path, leaf: &Leaf) -> Result<(), Error> {
    let name = leaf.file;
    let authority = read(dir, &format!("{}.crt", leaf.authority))?;
    let now = Timestamp::now().as_second();
    let note_path = dir.join(format!("{name}.json"));
    let note = fs::read(&note_path).ok();
    let note: Option<Note> = note.and_then(|text| serde_json::from_slice(&text).ok());
    let purpose = digest_id(&[&format!("{leaf:?}"), &authority]);
    let current = note.is_some_and(|note| note.purpose == purpose && note.renew_at > now);
    if current && dir.join(format!("{name}.crt")).exists() {
        return Ok(());
    }
    let signer =
        KeyPair::from_pem(&read(dir, &format!("{}.key", leaf.authority))?).map_err(failed(name))?;
    let issuer = Issuer::from_ca_cert_pem(&authority, signer).map_err(failed(name))?;
    let key = generate(name)?;
    let certificate = leaf_params(leaf)?
        .signed_by(&key, &issuer)
        .map_err(failed(name))?;
    // A note without its pair would keep a broken pair alive; it is written last.
    let _ = fs::remove_file(&note_path);
    write(
        &dir.join(format!("{name}.key")),
        key.serialize_pem().as_bytes(),
        0o600,
    )?;
    write(
        &dir.join(format!("{name}.crt")),
        certificate.pem().as_bytes(),
        0o644,
    )?;
    let note = Note {
        purpose,
        renew_at: now + LEAF_LIFE.whole_seconds() / 2,
    };
    let text = serde_json::to_vec(&note).unwrap_or_default();
    write(&note_path, &text, 0o600).map(|_| ())
}

fn leaf_params(leaf: &Leaf) -> Result<CertificateParams, Error> {
    let mut params = params(&leaf.common_name, leaf.organization, LEAF_LIFE);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // etcd's server certificate is its client certificate towards its own gateway too.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for name in &leaf.dns {
        let name = name.clone().try_into().map_err(failed(leaf.file))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    for address in &leaf.addresses {
        params.subject_alt_names.push(SanType::IpAddress(*address));
    }
    if !params.subject_alt_names.is_empty() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HubName;
    use crate::record::Record;

    #[test]
    fn pairs_stay_until_they_are_due_or_mean_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let mut record = Record::empty(&HubName::default());
        let content = |name: &str| fs::read(files.pki().join(name)).unwrap();
        crate::keys::ensure(&record, &files).unwrap();
        let (authority, server, client) = (
            content("ca.crt"),
            content("apiserver.crt"),
            content("scheduler.crt"),
        );
        crate::keys::ensure(&record, &files).unwrap();
        assert_eq!(content("apiserver.crt"), server);

        record.range = 9;
        crate::keys::ensure(&record, &files).unwrap();
        assert_ne!(content("apiserver.crt"), server, "it names the old address");
        assert_eq!(content("scheduler.crt"), client, "it names no address");
        assert_eq!(content("ca.crt"), authority);

        let note = files.pki().join("scheduler.json");
        let mut due: Note = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
        due.renew_at = 0;
        fs::write(&note, serde_json::to_vec(&due).unwrap()).unwrap();
        crate::keys::ensure(&record, &files).unwrap();
        assert_ne!(content("scheduler.crt"), client, "it was due");
    }
}

//! Self-signed certificates for the servers of tests.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

/// What the certificate is for, and where it goes.
#[derive(Args, Debug)]
pub struct SelfSignedArgs {
    /// Name that it is valid for; may be repeated
    #[arg(long, required = true)]
    dns: Vec<String>,
    /// Write tls.crt and tls.key to this directory instead of printing JSON
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Makes it.
///
/// # Errors
/// When a name is not one, or the directory cannot be written.
pub fn run(args: &SelfSignedArgs) -> Result<()> {
    let (certificate, key) = make(&args.dns)?;
    let Some(folder) = &args.out else {
        println!("{}", json!({ "cert": certificate, "key": key }));
        return Ok(());
    };
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for (name, text) in [("tls.crt", certificate), ("tls.key", key)] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Certificate and key in PEM.
fn make(names: &[String]) -> Result<(String, String)> {
    let key = KeyPair::generate().context("make a key")?;
    let mut params = CertificateParams::new(names).context("use the names")?;
    let name = names.first().cloned().unwrap_or_default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).context("sign the certificate")?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_takes_what_is_made() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        run(&SelfSignedArgs {
            dns: vec!["judge.default.svc".into()],
            out: Some(folder.path().into()),
        })
        .unwrap();
        let file = |name| folder.path().join(name);
        crate::tls::server(&file("tls.crt"), &file("tls.key")).unwrap();
    }
}

//! temporary
use crate::error::Error;
use crate::files::{Files, write};
use crate::keys::{AUTHORITIES, Leaf};
use std::process::Command;
pub(crate) fn ensure(leaves: &[Leaf], files: &Files) -> Result<(), Error> {
    let p = files.pki();
    let sh = |s: String| {
        Command::new("sh")
            .arg("-ec")
            .arg(s)
            .current_dir(&p)
            .status()
            .map_err(Error::file("run", "openssl"))
            .map(|_| ())
    };
    for a in AUTHORITIES {
        if !p.join(format!("{a}.crt")).exists() {
            sh(format!(
                "openssl ecparam -name prime256v1 -genkey -noout -out {a}.key; openssl req -x509 -new -key {a}.key -subj /CN={a} -days 3650 -out {a}.crt"
            ))?;
        }
    }
    if !p.join("sa.key").exists() {
        sh("openssl ecparam -name prime256v1 -genkey -noout -out sa.key; openssl ec -in sa.key -pubout -out sa.pub".into())?;
    }
    for l in leaves {
        let f = l.file;
        if p.join(format!("{f}.crt")).exists() {
            continue;
        }
        let san: Vec<String> = l
            .dns
            .iter()
            .map(|d| format!("DNS:{d}"))
            .chain(l.addresses.iter().map(|a| format!("IP:{a}")))
            .collect();
        let ext = format!(
            "extendedKeyUsage=clientAuth,serverAuth\n{}",
            if san.is_empty() {
                String::new()
            } else {
                format!("subjectAltName={}\n", san.join(","))
            }
        );
        write(&p.join(format!("{f}.ext")), ext.as_bytes(), 0o600)?;
        let o = l
            .organization
            .map(|o| format!("/O={o}"))
            .unwrap_or_default();
        sh(format!(
            "openssl ecparam -name prime256v1 -genkey -noout -out {f}.key; openssl req -new -key {f}.key -subj '{o}/CN={}' -out {f}.csr; openssl x509 -req -in {f}.csr -CA {a}.crt -CAkey {a}.key -CAcreateserial -days 365 -extfile {f}.ext -out {f}.crt",
            l.common_name,
            a = l.authority
        ))?;
    }
    Ok(())
}

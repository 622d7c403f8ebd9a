//! Where an archive comes from: the message, a URL, or the package at the API server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farplane_functions_types::package::build_status;
use farplane_functions_types::wire::FetchRequest;
use farplane_functions_types::{Archive, Checksum, Package};
use sha2::{Digest as _, Sha256};

use super::Error;
use super::api::Api;
use super::download::{Download, Downloaded, download};
use super::place::{Source, temporary};
use super::settings::Settings;

/// Brings the archive's bytes.
///
/// # Errors
/// When there is none, or it is not what it should be.
pub async fn bring(
    settings: &Settings,
    api: &Api,
    request: &FetchRequest,
) -> Result<Source, Error> {
    let archive = match (&request.archive, request.fetch_type) {
        (Some(archive), _) => archive.clone(),
        (None, 2) => Archive {
            url: request.url.clone(),
            ..Archive::default()
        },
        (None, kind @ (0 | 1)) => of_package(api, request, kind == 0).await?,
        (None, other) => return Err(Error::FetchType(other)),
    };
    if archive.oci.is_some() {
        return Err(Error::Oci);
    }
    if !archive.literal.is_empty() {
        return literal(&archive).map(|bytes| Source::Memory(bytes.into(), None));
    }
    if archive.url.is_empty() {
        return Err(Error::NoCode);
    }
    let expected = expected(&archive.checksum)?;
    let path = temporary(&settings.shared, &request.filename, "download");
    let early = temporary(&settings.shared, &request.filename, "early");
    let found = download(Download {
        url: &archive.url,
        storage_url: &request.storage_url,
        key: &settings.storage_key,
        namespace: &settings.namespace,
        limit: settings.download_limit,
        path: &path,
        early: &early,
    })
    .await;
    let checked = found.and_then(|found| {
        let (source, digest) = match found {
            Downloaded::Memory(bytes, early, digest) => (Source::Memory(bytes, early), digest),
            Downloaded::File(digest) => (Source::Downloaded(path.clone()), digest),
        };
        compare(expected, &digest).map(|()| source)
    });
    if checked.is_err() {
        super::place::remove(&path);
    }
    checked
}

async fn of_package(api: &Api, request: &FetchRequest, source: bool) -> Result<Archive, Error> {
    let name = &request.package.name;
    let package: Package = api.get("package", &request.package.namespace, name).await?;
    if source {
        return Ok(package.spec.source);
    }
    let status = package.status.map(|status| status.build_status);
    let status = status.unwrap_or_default();
    let ready = [build_status::SUCCEEDED, build_status::NONE, ""].contains(&status.as_str());
    if !ready || (package.spec.deployment.is_empty() && !package.spec.source.is_empty()) {
        let name = name.clone();
        return Err(Error::NotBuilt { name, status });
    }
    Ok(package.spec.deployment)
}

fn literal(archive: &Archive) -> Result<bytes::Bytes, Error> {
    let bytes = STANDARD.decode(&archive.literal).map_err(Error::Literal)?;
    if let Some(expected) = expected(&archive.checksum)? {
        compare(Some(expected), &hex::encode(Sha256::digest(&bytes)))?;
    }
    Ok(bytes.into())
}

fn expected(checksum: &Checksum) -> Result<Option<&str>, Error> {
    if checksum.is_empty() {
        return Ok(None);
    }
    match checksum.kind.as_str() {
        "" | "sha256" => Ok(Some(&checksum.sum)),
        other => Err(Error::ChecksumKind(other.to_owned())),
    }
}

fn compare(expected: Option<&str>, found: &str) -> Result<(), Error> {
    match expected {
        Some(expected) if !expected.eq_ignore_ascii_case(found) => Err(Error::Checksum {
            expected: expected.to_owned(),
            found: found.to_owned(),
        }),
        _ => Ok(()),
    }
}

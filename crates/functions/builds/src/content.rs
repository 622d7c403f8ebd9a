//! What a build is made from, as a digest. Pure.

use farplane_functions_types::package::PackageSpec;
use farplane_functions_types::{Archive, Environment};
use sha2::{Digest as _, Sha256};

/// Begins every digest of ours; others are another program's.
const PREFIX: &str = "farplane-1:";

/// Digest of what a package's status speaks of: its source with all that it is built by, or,
/// without a source, its deployment.
///
/// The deployment of a package with a source is left out: it is what a build made.
pub fn hash(spec: &PackageSpec, environment: Option<&Environment>) -> String {
    let mut hasher = Sha256::new();
    if spec.source.is_empty() {
        archive(&mut hasher, "deployment", &spec.deployment);
    } else {
        archive(&mut hasher, "source", &spec.source);
        part(&mut hasher, &spec.build_command);
        part(&mut hasher, &spec.environment.name);
        let builder = environment.map(|environment| &environment.spec.builder);
        part(&mut hasher, builder.map_or("", |builder| &builder.image));
        if spec.build_command.is_empty() {
            part(&mut hasher, builder.map_or("", |builder| &builder.command));
        }
    }
    format!("{PREFIX}{}", hex::encode(hasher.finalize()))
}

/// True for a digest that [`hash`] made.
pub fn is_ours(hash: &str) -> bool {
    hash.starts_with(PREFIX)
}

/// By what it holds, not by where it is: the same bytes at another URL are the same.
fn archive(hasher: &mut Sha256, what: &str, archive: &Archive) {
    part(hasher, what);
    part(hasher, &archive.literal);
    if archive.checksum.is_empty() {
        part(hasher, &archive.url);
    } else {
        part(hasher, &archive.checksum.sum.to_ascii_lowercase());
    }
    if let Some(oci) = &archive.oci {
        part(hasher, &oci.image);
        part(hasher, &oci.digest);
        part(hasher, &oci.sub_path);
    }
}

/// With its length, so that no two lists of parts are alike.
fn part(hasher: &mut Sha256, text: &str) {
    hasher.update(u64::try_from(text.len()).unwrap_or(0).to_be_bytes());
    hasher.update(text.as_bytes());
}

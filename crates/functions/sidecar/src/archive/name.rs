//! What entries of an archive may be called, and where links may lead. Pure.

/// Longest path of an entry, in bytes.
const PATH_LIMIT: usize = 2048;
/// Longest part of a path, in bytes; the file system's bound.
const PART_LIMIT: usize = 255;
/// Deepest path.
const DEPTH_LIMIT: usize = 64;

/// Why a name or link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Begins with `/`.
    #[error("its path is absolute; store paths relative to the directory of the code")]
    Absolute,
    /// Has `..`.
    #[error("its path climbs out with `..`; store paths relative to the directory of the code")]
    Climbs,
    /// Has `\`.
    #[error("its path has a backslash; make the archive with `/` between directories")]
    Backslash,
    /// Has a NUL or another control character.
    #[error("its path has a control character")]
    Control,
    /// Says nothing.
    #[error("its path is empty")]
    Empty,
    /// Too long or too deep.
    #[error(
        "its path is longer than {PATH_LIMIT} bytes, deeper than {DEPTH_LIMIT} directories, or has a part of more than {PART_LIMIT} bytes"
    )]
    Long,
    /// Not text.
    #[error("its path is not UTF-8")]
    NotText,
    /// A link that leaves the directory.
    #[error("it is a link that leads out of the archive; store the file itself")]
    LinkLeaves,
    /// A link with a target that is too long, or none.
    #[error("it is a link without a target that can be read")]
    LinkTarget,
}

/// Parts of an entry's path, without `.` and empty ones.
///
/// # Errors
/// When the path must not be used.
pub fn parts(path: &str) -> Result<Vec<&str>, Reason> {
    if path.len() > PATH_LIMIT {
        return Err(Reason::Long);
    }
    if path.starts_with('/') {
        return Err(Reason::Absolute);
    }
    if path.contains('\\') {
        return Err(Reason::Backslash);
    }
    if path.chars().any(char::is_control) {
        return Err(Reason::Control);
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err(Reason::Climbs);
    }
    if parts.len() > DEPTH_LIMIT || parts.iter().any(|part| part.len() > PART_LIMIT) {
        return Err(Reason::Long);
    }
    if parts.is_empty() {
        return Err(Reason::Empty);
    }
    Ok(parts)
}

/// Checks the target of a link that lies `depth` directories below the top.
///
/// `..` may only come first. A `..` after a name would be resolved from where that name leads,
/// which may be another link; from the link's own directory, which is none, climbing at most
/// `depth` times stays within, and so does every link that is met on the way down.
///
/// # Errors
/// When it leads out, or cannot be told.
pub fn link(target: &str, depth: usize) -> Result<(), Reason> {
    if target.is_empty() || target.len() > PATH_LIMIT || target.contains('\0') {
        return Err(Reason::LinkTarget);
    }
    if target.starts_with('/') {
        return Err(Reason::LinkLeaves);
    }
    let mut parts = target
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    let climbs = parts.by_ref().take_while(|part| *part == "..").count();
    // `take_while` ate the first name, which is none of `..`.
    if climbs > depth || parts.any(|part| part == "..") {
        return Err(Reason::LinkLeaves);
    }
    Ok(())
}

/// Checks one part of a path that another part of the platform names: no directories.
pub fn is_plain(name: &str) -> bool {
    matches!(parts(name).as_deref(), Ok([only]) if *only == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within() {
        assert_eq!(parts("a/./b//c"), Ok(vec!["a", "b", "c"]));
        assert_eq!(parts("a..b/..c"), Ok(vec!["a..b", "..c"]));
        for (path, reason) in [
            ("/etc/passwd", Reason::Absolute),
            ("../x", Reason::Climbs),
            ("a/../b", Reason::Climbs),
            ("a/..", Reason::Climbs),
            ("a\\..\\b", Reason::Backslash),
            ("a\0b", Reason::Control),
            ("a\nb", Reason::Control),
            ("", Reason::Empty),
            ("./.", Reason::Empty),
        ] {
            assert_eq!(parts(path), Err(reason), "{path:?}");
        }
        assert_eq!(parts(&"x".repeat(256)), Err(Reason::Long));
        assert_eq!(parts(&"x/".repeat(65)), Err(Reason::Long));
        assert_eq!(parts(&"x/".repeat(2000)), Err(Reason::Long));
    }

    #[test]
    fn links_stay_within() {
        assert_eq!(link("b", 0), Ok(()));
        assert_eq!(link("./b/c", 0), Ok(()));
        assert_eq!(link("../b", 1), Ok(()));
        assert_eq!(link("../../b", 2), Ok(()));
        assert_eq!(link("..", 1), Ok(()));
        for (target, depth) in [
            ("/b", 5),
            ("..", 0),
            ("../b", 0),
            ("../../b", 1),
            ("b/../../c", 9),
            ("b/..", 9),
            ("../b/..", 9),
        ] {
            assert_eq!(link(target, depth), Err(Reason::LinkLeaves), "{target}");
        }
        assert_eq!(link("", 0), Err(Reason::LinkTarget));
    }

    #[test]
    fn plain_names_have_no_directories() {
        assert!(is_plain("deployarchive"));
        for name in ["", ".", "..", "a/b", "/a", "a/", "./a", "a\\b"] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}

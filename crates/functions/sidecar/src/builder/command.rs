//! What a build command may be. Pure.

/// Characters that mean something to a shell. There is none: whoever writes them expects one.
const SHELL: &str = ";|&`$()<>\n\r";
/// The command when none is given.
const DEFAULT: &str = "build";
/// Longest command, in bytes.
const LIMIT: usize = 4096;

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A character for a shell.
    #[error(
        "the build command has {0:?}, but no shell runs it; put such things into a script of the package and name that"
    )]
    Shell(char),
    /// Too long.
    #[error("the build command is longer than {LIMIT} bytes; put it into a script of the package")]
    Long,
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildCommand {
    /// Name or path.
    pub program: String,
    /// Arguments.
    pub arguments: Vec<String>,
}

/// Reads a build command, parted at blanks.
///
/// # Errors
/// When it needs a shell.
pub fn parse(text: &str) -> Result<BuildCommand, Refusal> {
    let text = text.trim();
    if text.len() > LIMIT {
        return Err(Refusal::Long);
    }
    if let Some(shell) = text.chars().find(|part| SHELL.contains(*part)) {
        return Err(Refusal::Shell(shell));
    }
    let mut parts = text.split_whitespace().map(str::to_owned);
    Ok(BuildCommand {
        program: parts.next().unwrap_or_else(|| DEFAULT.to_owned()),
        arguments: parts.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parted_at_blanks() {
        let parsed = parse("  ./build.sh  --fast x ").unwrap();
        assert_eq!(parsed.program, "./build.sh");
        assert_eq!(parsed.arguments, ["--fast", "x"]);
        assert_eq!(parse("").unwrap().program, "build");
        assert_eq!(parse(" \t").unwrap().program, "build");
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for text in [
            "a;b", "a|b", "a&&b", "a`b`", "$HOME/b", "a$(b)", "a>b", "a<b", "a\nb", "a\rb",
        ] {
            assert!(matches!(parse(text), Err(Refusal::Shell(_))), "{text:?}");
        }
        assert_eq!(parse(&"x".repeat(5000)), Err(Refusal::Long));
    }
}

//! The reference page `docs/reference/cli.md`, made from the commands themselves.

use clap::{Command, CommandFactory as _};

use crate::arguments::Cli;

const HEAD: &str = "\
# The command `farplane`

Made by `farplane internal markdown-help`; a test fails when it drifts. Options of every
command are told once, at the top.
";

/// The page.
pub(crate) fn markdown() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut page = HEAD.to_owned();
    section(&root, "farplane", &mut page);
    page
}

fn section(command: &Command, path: &str, page: &mut String) {
    let below = path != "farplane";
    let help = command
        .clone()
        .mut_args(|arg| {
            let global = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(global && below)
        })
        .bin_name(path)
        .render_help()
        .to_string();
    page.push_str(&format!(
        "\n## `{path}`\n\n```text\n{}\n```\n",
        help.trim_end()
    ));
    for inner in command.get_subcommands() {
        if !inner.is_hide_set() {
            section(inner, &format!("{path} {}", inner.get_name()), page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_told_and_hidden_ones_are_not() {
        let page = markdown();
        for heading in ["## `farplane`\n", "## `farplane host join-command`\n"] {
            assert!(page.contains(heading), "{heading}");
        }
        assert!(!page.contains("hub-supervisor"));
        assert_eq!(page.matches("--no-color").count(), 1);
    }
}

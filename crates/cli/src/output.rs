//! Where words go: data to stdout in the asked form, talk to stderr.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use serde::Serialize;

use crate::arguments::{Format, Global};
use crate::view::cells::{self, Cell};
use crate::view::rows::Row;

/// The two streams and how they are written.
#[derive(Clone)]
pub(crate) struct Output {
    /// Form of data.
    pub format: Format,
    /// Whether stdout gets colours.
    pub color: bool,
    /// Whether talk is left out.
    pub quiet: bool,
}

impl Output {
    /// As the options say.
    pub fn new(global: &Global) -> Self {
        let forbidden =
            global.no_color || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            format: global.output,
            color: !forbidden && std::io::stdout().is_terminal(),
            quiet: global.quiet,
        }
    }

    /// Writes to stdout as it is.
    pub fn data(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .context("write to stdout")
    }

    /// A line of talk.
    pub fn say(&self, text: impl Display) {
        if !self.quiet {
            // Whoever closed stderr does not listen.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Anything as JSON or YAML, else as the text that `render` makes with or without
    /// colours.
    pub fn value(&self, value: &impl Serialize, render: impl FnOnce(bool) -> String) -> Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Yaml => self.yaml(value),
            Format::Table | Format::Name => self.data(&render(self.color)),
        }
    }

    /// One object.
    pub fn object<K>(&self, object: &K, render: impl FnOnce(bool) -> String) -> Result<()>
    where
        K: Resource + Serialize + Clone,
    {
        match self.format {
            Format::Name => self.data(&format!("{}\n", object.name_any())),
            _ => self.value(&without_bookkeeping(object), render),
        }
    }

    /// A new object: talk for people, the object for programs.
    pub fn made<K>(&self, object: &K, words: impl Display) -> Result<()>
    where
        K: Resource + Serialize + Clone,
    {
        if self.format != Format::Table {
            self.object(object, |_| String::new())?;
        }
        self.say(words);
        Ok(())
    }

    /// A list in the order of organization and name; `empty` is said when it has nothing.
    pub fn list<K: Row>(&self, mut items: Vec<K>, empty: &str) -> Result<()> {
        items.sort_by_key(|item| (item.namespace(), item.name_any()));
        let now = Timestamp::now();
        match self.format {
            Format::Json | Format::Yaml => {
                let items: Vec<K> = items.iter().map(without_bookkeeping).collect();
                let list =
                    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
                self.value(&list, |_| String::new())
            }
            Format::Name => {
                let names: String = items.iter().map(|item| item.name_any() + "\n").collect();
                self.data(&names)
            }
            Format::Table if items.is_empty() => {
                self.say(empty);
                Ok(())
            }
            Format::Table => {
                let rows: Vec<Vec<Cell>> = items.iter().map(|item| item.cells(now)).collect();
                self.data(&cells::table(K::HEADS, &rows, self.color))
            }
        }
    }

    fn json(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).context("write JSON")?;
        self.data(&(text + "\n"))
    }

    fn yaml(&self, value: &impl Serialize) -> Result<()> {
        self.data(&serde_yaml_ng::to_string(value).context("write YAML")?)
    }
}

/// The object without the record of who set which field, which nobody reads.
fn without_bookkeeping<K: Resource + Clone>(object: &K) -> K {
    let mut object = object.clone();
    object.meta_mut().managed_fields = None;
    object
}

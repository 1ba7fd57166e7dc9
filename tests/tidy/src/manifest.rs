//! What the rules ask of a `Cargo.toml`: its name and its dependencies, section by section.

/// A manifest's lines by section.
#[derive(Debug)]
pub struct Manifest<'a> {
    lines: Vec<(&'a str, &'a str, &'a str)>,
}

impl<'a> Manifest<'a> {
    /// Reads one. What is not `key = value` on a line of its own is left out.
    pub fn of(text: &'a str) -> Self {
        let mut section = "";
        let mut lines = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
        {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_matches(['[', ']']);
            } else if let Some((key, value)) = line.split_once('=') {
                lines.push((section, key.trim(), value.trim()));
            }
        }
        Self { lines }
    }

    /// `key = value` of a section, the quotes around the value taken off.
    pub fn value(&self, section: &str, key: &str) -> Option<&'a str> {
        self.entries(section)
            .find(|(other, _)| *other == key)
            .map(|(_, value)| value.trim_matches('"'))
    }

    /// Keys and values of a section.
    pub fn entries<'s>(
        &'s self,
        section: &'s str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 's {
        self.lines
            .iter()
            .filter(move |(other, ..)| *other == section)
            .map(|(_, key, value)| (*key, *value))
    }

    /// The crates in `[dependencies]` and in dependencies for one target, by name.
    pub fn dependencies(&self) -> Vec<&'a str> {
        self.lines
            .iter()
            .filter(|(section, ..)| {
                *section == "dependencies" || section.ends_with(".dependencies")
            })
            .map(|(_, key, _)| key.split('.').next().unwrap_or(key))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dependencies_are_found_in_their_sections() {
        let manifest = Manifest::of(
            "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\nc = { path = \"x\" }\n[dev-dependencies]\nd.workspace = true\n",
        );
        assert_eq!(manifest.value("package", "name"), Some("a"));
        assert_eq!(manifest.dependencies(), ["b", "c"]);
    }
}

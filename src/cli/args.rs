//! Command-line flags: one table a subcommand, from which both the parser and `--help` are made.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

/// One flag.
#[derive(Clone, Copy)]
pub struct Flag {
    /// Its spellings, the usual one first.
    pub names: &'static [&'static str],
    /// What its value is called, or `None` when it takes none.
    pub value: Option<&'static str>,
    /// One line for `--help`.
    pub help: &'static str,
}

impl Flag {
    /// A flag with a value.
    pub const fn with(
        names: &'static [&'static str],
        value: &'static str,
        help: &'static str,
    ) -> Flag {
        Flag {
            names,
            value: Some(value),
            help,
        }
    }

    /// A flag without one.
    pub const fn switch(names: &'static [&'static str], help: &'static str) -> Flag {
        Flag {
            names,
            value: None,
            help,
        }
    }
}

/// A subcommand.
pub struct Command {
    /// What the user types.
    pub name: &'static str,
    /// Its positional arguments, as shown in `--help`.
    pub positional: &'static str,
    /// How many there may be.
    pub max_positional: usize,
    /// One line for `--help`.
    pub help: &'static str,
    /// Its flags, in groups.
    pub flags: &'static [&'static [Flag]],
    /// Runs it.
    pub run: fn(&Args) -> Result<()>,
}

/// The arguments of a subcommand, checked against its table.
pub struct Args {
    given: Vec<(&'static str, OsString)>,
    /// Arguments that are no flags.
    pub positional: Vec<OsString>,
}

impl Command {
    /// Sorts `args` by the table; `Ok(None)` when help was asked for.
    ///
    /// Errors: usage errors that name the argument.
    pub fn parse(&self, args: impl IntoIterator<Item = OsString>) -> Result<Option<Args>> {
        let mut parsed = Args {
            given: Vec::new(),
            positional: Vec::new(),
        };
        let mut args = args.into_iter();
        let mut only_positional = false;
        while let Some(arg) = args.next() {
            let is_flag = !only_positional && arg.len() > 1 && arg.as_encoded_bytes()[0] == b'-';
            if !is_flag {
                if parsed.positional.len() == self.max_positional {
                    return Err(self.wrong(format!("unexpected argument '{}'", arg.display())));
                }
                parsed.positional.push(arg);
                continue;
            }
            if arg == "--" {
                only_positional = true;
                continue;
            }
            if arg == "--help" || arg == "-h" {
                return Ok(None);
            }
            let (name, inline) = split_value(&arg);
            let flag = self
                .flags
                .iter()
                .copied()
                .flatten()
                .find(|f| f.names.iter().any(|n| name == *n));
            let flag =
                flag.ok_or_else(|| self.wrong(format!("unknown flag '{}'", arg.display())))?;
            let value = match (flag.value, inline) {
                (None, None) => OsString::new(),
                (None, Some(_)) => {
                    return Err(self.wrong(format!("{} takes no value", flag.names[0])));
                }
                (Some(_), Some(value)) => value,
                (Some(what), None) => args.next().ok_or_else(|| {
                    self.wrong(format!("{} needs a value: {what}", flag.names[0]))
                })?,
            };
            if parsed.value(flag.names[0]).is_some() {
                return Err(self.wrong(format!("{} is given twice", flag.names[0])));
            }
            parsed.given.push((flag.names[0], value));
        }
        Ok(Some(parsed))
    }

    fn wrong(&self, what: String) -> Error {
        Error::usage(format!("{what} (see infall {} --help)", self.name))
    }

    /// The text of `--help`.
    pub fn usage(&self) -> String {
        let mut text = format!(
            "infall {} [flags] {}\n{}\n\n",
            self.name, self.positional, self.help
        );
        for flag in self.flags.iter().copied().flatten() {
            let left = format!("{} {}", flag.names.join(", "), flag.value.unwrap_or(""));
            // Writing to a String does not fail.
            let _ = writeln!(text, "  {left:<26} {}", flag.help);
        }
        text
    }
}

/// `--name=value` in its parts; values of short flags stand apart.
fn split_value(arg: &OsStr) -> (OsString, Option<OsString>) {
    let Some(text) = arg.to_str() else {
        return (arg.to_os_string(), None);
    };
    match text.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name.into(), Some(value.into())),
        _ => (text.into(), None),
    }
}

impl Args {
    /// The value of a flag as given.
    pub fn value(&self, flag: &str) -> Option<&OsStr> {
        self.given
            .iter()
            .find(|(name, _)| *name == flag)
            .map(|(_, value)| value.as_os_str())
    }

    /// What was given, flags in their usual spelling, without those named in `but` and without folders, so that it
    /// names nobody; words that a shell would split stand in quotes.
    pub fn told(&self, but: &[&str]) -> String {
        let given = self.given.iter().filter(|(name, _)| !but.contains(name));
        let words = given.flat_map(|(name, value)| [OsStr::new(name), value]);
        let words = words.chain(self.positional.iter().map(OsString::as_os_str));
        let words = words.filter(|word| !word.is_empty()).map(|word| {
            let name = Path::new(word).file_name().unwrap_or(word);
            let word = name.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,%=:".contains(c);
            match word.chars().all(plain) {
                true => word.into_owned(),
                false => format!("'{}'", word.replace('\'', "'\\''")),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Whether a switch was given.
    pub fn has(&self, flag: &str) -> bool {
        self.value(flag).is_some()
    }

    /// The value of a flag as text.
    pub fn text(&self, flag: &str) -> Result<Option<&str>> {
        self.value(flag).map(|value| utf8(flag, value)).transpose()
    }

    /// The value of a flag as a number.
    pub fn number<T: FromStr>(&self, flag: &str) -> Result<Option<T>> {
        let Some(text) = self.text(flag)? else {
            return Ok(None);
        };
        let kind = if std::any::type_name::<T>().starts_with('f') {
            "a number"
        } else {
            "a whole number from 0"
        };
        text.parse()
            .map(Some)
            .map_err(|_| Error::usage(format!("{flag}: found '{text}', expected {kind}")))
    }
}

/// `value` as text, or a usage error that names `what`.
pub fn utf8<'a>(what: &str, value: &'a OsStr) -> Result<&'a str> {
    let bytes = value.as_encoded_bytes();
    std::str::from_utf8(bytes).map_err(|e| {
        Error::usage(format!(
            "{what}: not UTF-8 text at byte {}",
            e.valid_up_to()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::with(&["-n"], "N", "number"),
        Flag::with(&["-p", "--prompt"], "TEXT", "text"),
        Flag::switch(&["--raw"], "raw"),
    ];
    const COMMAND: Command = Command {
        name: "test",
        positional: "FILE",
        max_positional: 1,
        help: "",
        flags: &[FLAGS],
        run: |_| Ok(()),
    };

    fn parse(args: &[&str]) -> Result<Option<Args>> {
        COMMAND.parse(args.iter().map(OsString::from))
    }

    #[test]
    fn flags_values_and_positional_arguments_are_told_apart() {
        let args = parse(&["-n", "3", "file", "--prompt=-a=b", "--raw"])
            .unwrap()
            .unwrap();
        assert_eq!(args.number::<usize>("-n").unwrap(), Some(3));
        assert_eq!(args.text("-p").unwrap(), Some("-a=b"));
        assert!(args.has("--raw"));
        assert_eq!(args.positional, ["file"]);
        assert_eq!(
            parse(&["--", "--raw"]).unwrap().unwrap().positional,
            ["--raw"]
        );
        assert_eq!(
            parse(&["-p", "--raw"])
                .unwrap()
                .unwrap()
                .text("-p")
                .unwrap(),
            Some("--raw")
        );
        assert!(parse(&["-n", "3", "--help"]).unwrap().is_none());
    }

    #[test]
    fn what_is_told_again_names_no_folder() {
        let args = ["-n", "3", "--prompt=it's me", "--raw", "/home/me/file"];
        let args = parse(&args).unwrap().unwrap();
        assert_eq!(args.told(&[]), "-n 3 -p 'it'\\''s me' --raw file");
        assert_eq!(args.told(&["-p", "--raw"]), "-n 3 file");
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (args, expected) in [
            (&["--nonsense"][..], "unknown flag '--nonsense'"),
            (&["-n"], "-n needs a value: N"),
            (&["--raw=1"], "--raw takes no value"),
            (&["a", "b"], "unexpected argument 'b'"),
            (&["-n", "1", "-n", "2"], "-n is given twice"),
        ] {
            let error = parse(args).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let args = parse(&["-n", "-3"]).unwrap().unwrap();
        let error = args.number::<usize>("-n").unwrap_err().to_string();
        assert_eq!(error, "-n: found '-3', expected a whole number from 0");
    }
}

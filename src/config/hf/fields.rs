//! Fields of JSON objects, with errors that name them, and which of them were read.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::config::error::{ConfigError, Result};

/// Zero or more. Some tools write whole numbers as 4096.0.
fn whole(value: &Value) -> Option<usize> {
    let number = value.as_f64()?;
    let is_whole = number.fract() == 0.0 && (0.0..2f64.powi(53)).contains(&number);
    is_whole.then_some(number as usize)
}

/// Python writes `Infinity`, `-Infinity` and `NaN`, which JSON does not have: as texts they are errors where a
/// number is needed, and no matter elsewhere.
pub(super) fn quote_non_finite(json: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| json.contains(word)) {
        return Cow::Borrowed(json);
    }
    let (mut quoted, mut rest, mut in_text) = (String::new(), json, false);
    while let Some(first) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !in_text && rest.starts_with(**word));
        let taken = match (first, word) {
            ('\\', _) => rest.chars().take(2).map(char::len_utf8).sum(),
            (_, Some(word)) => word.len(),
            _ => first.len_utf8(),
        };
        in_text ^= first == '"';
        let (token, after) = rest.split_at(taken);
        quoted += &if word.is_some() { format!("\"{token}\"") } else { token.to_owned() };
        rest = after;
    }
    Cow::Owned(quoted)
}

/// Names of the keys that were read.
#[derive(Default)]
pub(super) struct Seen(RefCell<BTreeSet<String>>);

/// An object's fields, with errors that name them.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub object: &'a Map<String, Value>,
    /// What the object's keys are called by.
    pub prefix: &'a str,
    pub seen: &'a Seen,
}

impl<'a> Fields<'a> {
    /// What a key holds; nothing where it is null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.seen.0.borrow_mut().insert(self.name(key));
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn value<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong =
            || ConfigError::Value { key: self.name(key), expected, given: value.to_string() };
        read(value).map(Some).ok_or_else(wrong)
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.value(key, "a number", Value::as_f64)
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.value(key, "a whole number above zero", |value| whole(value).filter(|&n| n > 0))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.value(key, "text", Value::as_str)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.value(key, "true or false", Value::as_bool)
    }

    pub fn list(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.value(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    pub fn whole_numbers(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.value(key, "a list of whole numbers", |value| {
            value.as_array()?.iter().map(whole).collect()
        })
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.value(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        })
    }

    /// Every how many layers a kind comes back: a number, or a text with a letter a layer ("LLLG").
    pub fn period(&self, key: &str) -> Result<Option<usize>> {
        self.value(key, "a whole number above zero, or a letter a layer", |value| {
            let period = value.as_str().map(str::len).or_else(|| whole(value))?;
            (period > 0).then_some(period)
        })
    }

    pub fn fields(&self, key: &str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        let object = self.value(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields { object, prefix, seen: self.seen }))
    }

    /// Every key that `matters` was read, is one of `harmless`, or says nothing.
    pub fn all_read(&self, harmless: &[&str], matters: impl Fn(&str) -> bool) -> Result<()> {
        let seen = self.seen.0.borrow();
        for (key, value) in self.object {
            // A factor of 1 is none.
            let is_factor = ["factor", "scale"].iter().any(|word| key.contains(word));
            let is_one = is_factor && value.as_f64() == Some(1.0);
            let says_nothing = value.is_null() || *value == Value::Bool(false) || is_one;
            if says_nothing
                || !matters(key)
                || harmless.contains(&&**key)
                || seen.contains(&self.name(key))
            {
                continue;
            }
            return Err(ConfigError::Unread { key: self.name(key), given: value.to_string() });
        }
        Ok(())
    }
}

/// The one value that several keys agree on.
pub(super) fn agreed<T: PartialEq + fmt::Debug>(
    found: impl IntoIterator<Item = (String, Option<T>)>,
) -> Result<Option<T>> {
    let mut agreed: Option<(String, T)> = None;
    for (key, value) in found {
        let Some(value) = value else { continue };
        match &agreed {
            Some((other, before)) if *before != value => {
                return Err(ConfigError::Contradiction {
                    keys: [other.clone(), key],
                    given: [format!("{before:?}"), format!("{value:?}")],
                });
            }
            Some(_) => {}
            None => agreed = Some((key, value)),
        }
    }
    Ok(agreed.map(|(_, value)| value))
}

/// A kind of rope by its name of today.
fn today(name: &str) -> &str {
    match name {
        "su" => "longrope",
        name => name,
    }
}

/// The objects that may describe one rope, and the config around them.
pub(super) struct Sources<'a> {
    pub ropes: Vec<Fields<'a>>,
    pub top: Fields<'a>,
}

impl<'a> Sources<'a> {
    /// What the ropes, by `key`, and the config around them, by `tops`, agree on.
    fn agree<T: PartialEq + fmt::Debug>(
        &self,
        key: &str,
        tops: &[&str],
        read: impl Fn(&Fields<'a>, &str) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let ropes = self.ropes.iter().map(|rope| (rope, key));
        let fields = ropes.chain(tops.iter().map(|key| (&self.top, *key)));
        let found = fields.map(|(fields, key)| Ok((fields.name(key), read(fields, key)?)));
        agreed(found.collect::<Result<Vec<_>>>()?)
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.number_or_top(key, &[])
    }

    pub fn number_or_top(&self, key: &str, tops: &[&str]) -> Result<Option<f64>> {
        self.agree(key, tops, Fields::number)
    }

    /// The kind of rope, `type` in older files.
    pub fn kind(&self) -> Result<&'a str> {
        let mut kinds = Vec::new();
        for rope in &self.ropes {
            // "mrope" says that there are sections, which is a key of its own.
            let kind = |key| Ok(rope.text(key)?.map(today).filter(|kind| *kind != "mrope"));
            for key in ["rope_type", "type"] {
                kinds.push((rope.name(key), kind(key)?));
            }
        }
        Ok(agreed(kinds)?.unwrap_or("default"))
    }

    pub fn count_or_top(&self, key: &str) -> Result<Option<usize>> {
        self.agree(key, &[key], Fields::count)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.agree(key, &[], Fields::flag)
    }

    /// The key, where it is there, holds that.
    pub fn exactly(&self, key: &str, expected: f64) -> Result<()> {
        for rope in &self.ropes {
            if let Some(given) = rope.number(key)?.filter(|&given| given != expected) {
                return Err(ConfigError::Unread { key: rope.name(key), given: given.to_string() });
            }
        }
        Ok(())
    }

    pub fn required(&self, key: &'static str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| ConfigError::missing(key))
    }

    pub fn required_list(&self, key: &'static str) -> Result<Vec<f64>> {
        self.agree(key, &[], Fields::list)?.ok_or_else(|| ConfigError::missing(key))
    }
}

//! Fields of JSON objects, with errors that name them.

use std::fmt;

use serde_json::{Map, Value};

use super::error::{ConfigError, Result};

/// Zero or more. Some tools write whole numbers as 4096.0.
fn whole(value: &Value) -> Option<usize> {
    let number = value.as_f64()?;
    let is_whole = number.fract() == 0.0 && (0.0..2f64.powi(53)).contains(&number);
    is_whole.then_some(number as usize)
}

/// An object's fields, with errors that name them.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub object: &'a Map<String, Value>,
    /// What the object's keys are called by.
    pub prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// What a key holds; nothing where it is null.
    fn get(&self, key: &str) -> Option<&'a Value> {
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

    pub fn fields(&self, key: &'static str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        let object = self.value(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields { object, prefix }))
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

    pub fn count_or_top(&self, key: &str) -> Result<Option<usize>> {
        self.agree(key, &[key], Fields::count)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.agree(key, &[], Fields::flag)
    }

    pub fn required(&self, key: &'static str) -> Result<f64> {
        self.number(key)?.ok_or(ConfigError::Missing { key })
    }

    pub fn required_list(&self, key: &'static str) -> Result<Vec<f64>> {
        self.agree(key, &[], Fields::list)?.ok_or(ConfigError::Missing { key })
    }
}

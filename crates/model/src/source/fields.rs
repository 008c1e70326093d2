//! The JSON files of a model folder, field by field. Numbers stay text until an integer is made of them: none passes through a float.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::value::RawValue;

use super::{Unknown, sha256_hex};
use crate::{ModelError, convert::Decimal};
use quern_exact::header;

/// The fields of a JSON object, as text.
pub(crate) struct Fields {
    path: PathBuf,
    /// What the fields' names begin with in messages: "" or "rope_scaling.".
    prefix: String,
    fields: BTreeMap<String, Box<RawValue>>,
}

impl Fields {
    pub(crate) fn raw(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.get())
    }

    /// Whether the field stands there with something else than `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        !matches!(self.raw(name), None | Some("null"))
    }

    /// Names and values, in order of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.get()))
    }

    pub(crate) fn refuse(&self, name: &str, found: impl ToString, expected: impl Into<String>) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            field: format!("{}{name}", self.prefix),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    fn required(&self, name: &str, expected: &str) -> Result<&str, ModelError> {
        self.raw(name).ok_or_else(|| self.refuse(name, "missing", expected))
    }

    /// A text that must be one of some; which one.
    pub(crate) fn text(&self, name: &str, supported: &[&'static str]) -> Result<&'static str, ModelError> {
        let expected = format!("one of {supported:?}");
        let found = self.required(name, &expected)?;
        let text = serde_json::from_str::<String>(found).unwrap_or_default();
        supported.iter().copied().find(|known| *known == text).ok_or_else(|| self.refuse(name, found, expected))
    }

    /// A field that must have one value where it stands at all; a number may be written as 1 or 1.0.
    pub(crate) fn fixed(&self, name: &str, expected: &str) -> Result<(), ModelError> {
        let same_number = |found| Decimal::parse(found).is_some_and(|found| Some(found) == Decimal::parse(expected));
        match self.raw(name) {
            None | Some("null") => Ok(()),
            Some(found) if found == expected || same_number(found) => Ok(()),
            Some(found) => Err(self.refuse(name, found, format!("{expected}, or no such field"))),
        }
    }

    pub(crate) fn count(&self, name: &str) -> Result<u32, ModelError> {
        const EXPECTED: &str = "a whole number from 1 to 2^24";
        let found = self.required(name, EXPECTED)?;
        match found.parse() {
            Ok(count @ 1..=0x100_0000) => Ok(count),
            _ => Err(self.refuse(name, found, EXPECTED)),
        }
    }

    /// As [`Fields::count`]; `None` where the field is missing or null.
    pub(crate) fn optional_count(&self, name: &str) -> Result<Option<u32>, ModelError> {
        if self.has(name) { self.count(name).map(Some) } else { Ok(None) }
    }

    /// `true` or `false`; `otherwise` where the field is missing or null.
    pub(crate) fn flag(&self, name: &str, otherwise: bool) -> Result<bool, ModelError> {
        match self.raw(name) {
            None | Some("null") => Ok(otherwise),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(found) => Err(self.refuse(name, found, "true or false")),
        }
    }

    pub(crate) fn optional_id(&self, name: &str) -> Result<Option<u32>, ModelError> {
        match self.raw(name) {
            None | Some("null") => Ok(None),
            Some(found) => match found.parse() {
                Ok(header::NO_ID) | Err(_) => Err(self.refuse(name, found, "an id, or null")),
                Ok(id) => Ok(Some(id)),
            },
        }
    }

    /// One id or a list of ids; none where the field is missing or null.
    pub(crate) fn ids(&self, name: &str) -> Result<Vec<u32>, ModelError> {
        match self.raw(name) {
            Some(found) if found.starts_with('[') => {
                serde_json::from_str(found).map_err(|_| self.refuse(name, found, "an id or a list of ids"))
            }
            _ => Ok(self.optional_id(name)?.into_iter().collect()),
        }
    }

    /// The decimal of a norm's epsilon.
    pub(crate) fn epsilon(&self, name: &str) -> Result<Decimal, ModelError> {
        const EXPECTED: &str = "a number from 0 to below 10, at most 18 digits and 30 decimal places";
        let found = self.required(name, EXPECTED)?;
        Decimal::parse(found).filter(|decimal| decimal.is_below(10)).ok_or_else(|| self.refuse(name, found, EXPECTED))
    }

    /// A decimal of at least one.
    pub(crate) fn factor(&self, name: &str) -> Result<Decimal, ModelError> {
        const EXPECTED: &str = "a number from 1 to below 10^18, at most 18 digits";
        let found = self.required(name, EXPECTED)?;
        Decimal::parse(found).filter(|decimal| !decimal.is_below(1)).ok_or_else(|| self.refuse(name, found, EXPECTED))
    }

    /// The fields of an object within this one; `None` where the field is missing or null.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, ModelError> {
        let Some(found) = self.raw(name).filter(|found| *found != "null") else { return Ok(None) };
        let fields = serde_json::from_str(found).map_err(|_| self.refuse(name, found, "an object, or null"))?;
        Ok(Some(Self { path: self.path.clone(), prefix: format!("{}{name}.", self.prefix), fields }))
    }

    /// The fields that are in none of the lists. One that is null says nothing.
    pub(crate) fn unknown(&self, known: &[&[&str]], fixed: &[&[(&str, &str)]]) -> Vec<Unknown> {
        let is_known = |name: &str| {
            known.iter().any(|list| list.contains(&name)) || fixed.iter().any(|list| list.iter().any(|(fixed, _)| *fixed == name))
        };
        let unknown = self.iter().filter(|(name, found)| *found != "null" && !is_known(name));
        unknown.map(|(name, found)| Unknown::field(&self.path, name, found)).collect()
    }
}

/// Reads the JSON files of a folder and remembers what it read.
pub(crate) struct Reader<'a> {
    folder: &'a Path,
    /// Name and sha256 of each file that was read.
    pub(crate) files: Vec<(String, String)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(folder: &'a Path) -> Self {
        Self { folder, files: Vec::new() }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder
    }

    /// `None` if there is no such file.
    pub(crate) fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        let path = self.folder.join(name);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ModelError::read(path)(error)),
        };
        self.files.push((name.to_owned(), sha256_hex(&content)));
        Ok(Some(content))
    }

    /// `None` if there is no such file.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ModelError> {
        let Some(text) = self.bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(ModelError::json(self.folder.join(name)))
    }

    /// The fields of a JSON file; `None` if there is no such file.
    pub(crate) fn fields(&mut self, name: &str) -> Result<Option<Fields>, ModelError> {
        let fields = self.json(name)?;
        Ok(fields.map(|fields| Fields { path: self.folder.join(name), prefix: String::new(), fields }))
    }

    /// The fields of config.json.
    pub(crate) fn config(&mut self) -> Result<Fields, ModelError> {
        self.fields("config.json")?.ok_or_else(|| ModelError::MissingFile {
            path: self.folder.join("config.json"),
            needed_for: "it says which architecture the weights are for; a Hugging Face model folder holds it",
        })
    }
}

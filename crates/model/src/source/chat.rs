//! The chat template of a folder: how a conversation becomes a prompt. Informative; it is kept in a package beside the weights.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::Reader;
use crate::ModelError;

/// What a package keeps of a model's chat format, in chat.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Chat {
    /// A Jinja template over messages, add_generation_prompt, bos_token and eos_token.
    pub(crate) template: String,
    /// The text of the token that begins a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bos_token: Option<String>,
    /// The text of the token that ends an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eos_token: Option<String>,
}

impl Chat {
    /// The template of chat_template.jinja, or of tokenizer_config.json: a text, or the one named "default" in a list.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, ModelError> {
        let config: Value = reader.json("tokenizer_config.json")?.unwrap_or_default();
        let file = reader.bytes("chat_template.jinja")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let in_config = || {
            let named = |list: &Vec<Value>| list.iter().find(|entry| entry["name"] == "default").map(|entry| entry["template"].clone());
            let template = &config["chat_template"];
            template.as_array().and_then(named).as_ref().unwrap_or(template).as_str().map(str::to_owned)
        };
        // A token is a text, or an object that describes one.
        let token = |name: &str| config[name].as_str().or_else(|| config[name]["content"].as_str()).map(str::to_owned);
        let template = file.or_else(in_config);
        Ok(template.map(|template| Self { template, bos_token: token("bos_token"), eos_token: token("eos_token") }))
    }
}

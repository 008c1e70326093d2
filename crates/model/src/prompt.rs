//! From a conversation to a prompt, by the model's own template.

use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};

use crate::{ModelError, source::Chat};

/// Instructions of a template that are run for one prompt: many times what a long conversation needs, and a second at most.
const MOST_STEPS: u64 = 10_000_000;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A model's chat template (Jinja, as transformers renders it).
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    pub(crate) fn new(chat: &Chat) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        // As transformers sets it up.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?);
        environment.add_function("raise_exception", |text: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.set_fuel(Some(MOST_STEPS));
        environment.set_unknown_method_callback(|_, value, method, arguments| python_method(value, method, arguments));
        environment.add_template_owned("chat", chat.template.clone()).map_err(failed)?;
        Ok(Self { environment, bos_token: chat.bos_token.clone(), eos_token: chat.eos_token.clone() })
    }

    /// The prompt that asks for the assistant's next turn. It has the special tokens as text, the one that begins it included.
    ///
    /// # Errors
    /// [`ModelError::Template`] if the template refuses the messages, for instance a role that it does not know.
    pub fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
        let template = self.environment.get_template("chat").map_err(failed)?;
        let messages: Vec<Value> =
            messages.iter().map(|message| context! { role => message.role.as_str(), content => message.content.as_str() }).collect();
        let values = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos_token.as_deref().unwrap_or_default(),
            eos_token => self.eos_token.as_deref().unwrap_or_default(),
        };
        template.render(values).map_err(failed)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn failed(error: minijinja::Error) -> ModelError {
    ModelError::Template { reason: error.to_string() }
}

/// The methods of Python's strings, lists and dicts that published templates call.
fn python_method(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::new(ErrorKind::UnknownMethod, format!("{method} is not supported in a chat template"));
    let text = value.as_str();
    let argument = |at: usize| arguments.get(at).and_then(Value::as_str);
    let strip = |text: &str, start: bool, end: bool| {
        let cut = |c: char| argument(0).map_or(c.is_whitespace(), |set| set.contains(c));
        let text = if start { text.trim_start_matches(cut) } else { text };
        (if end { text.trim_end_matches(cut) } else { text }).to_owned()
    };
    Ok(match (method, text) {
        ("strip", Some(text)) => strip(text, true, true).into(),
        ("lstrip", Some(text)) => strip(text, true, false).into(),
        ("rstrip", Some(text)) => strip(text, false, true).into(),
        ("upper", Some(text)) => text.to_uppercase().into(),
        ("lower", Some(text)) => text.to_lowercase().into(),
        ("startswith", Some(text)) => text.starts_with(argument(0).ok_or_else(unknown)?).into(),
        ("endswith", Some(text)) => text.ends_with(argument(0).ok_or_else(unknown)?).into(),
        ("replace", Some(text)) => {
            let (from, to) = argument(0).zip(argument(1)).ok_or_else(unknown)?;
            text.replace(from, to).into()
        }
        ("split", Some(text)) => match argument(0) {
            Some(separator) => text.split(separator).map(Value::from).collect::<Value>(),
            None => text.split_whitespace().map(Value::from).collect::<Value>(),
        },
        ("items", None) => {
            let keys = value.try_iter()?.collect::<Vec<_>>();
            let pairs = keys.into_iter().map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?])));
            pairs.collect::<Result<Vec<_>, minijinja::Error>>()?.into()
        }
        ("get", None) => {
            let found = arguments.first().and_then(|key| value.get_item(key).ok()).filter(|found| !found.is_undefined());
            found.or_else(|| arguments.get(1).cloned()).unwrap_or_else(|| Value::from(()))
        }
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> ChatTemplate {
        ChatTemplate::new(&Chat { template: text.to_owned(), bos_token: None, eos_token: None }).expect("a template")
    }

    #[test]
    fn template_of_an_enemy_that_never_ends_is_an_error() {
        let endless =
            "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(template(endless).render(&[]), Err(ModelError::Template { .. })));
    }

    #[test]
    fn long_conversation_is_well_within_the_steps() {
        let messages = vec![Message { role: "user".into(), content: "hello".into() }; 2_000];
        let text =
            "{% for m in messages %}{% if m.role == 'user' %}[U]{{ m.content | trim }}{% else %}[A]{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(template(text).render(&messages).expect("rendered").len(), 2_000 * 8);
    }
}

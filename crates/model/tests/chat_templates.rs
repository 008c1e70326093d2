//! Chat templates: the constructs that the published ones of each family are made of, in short forms of our own, and the prompts that their documentation
//! shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::fs;

use fixture::decoder as folder_of;
use quern_model::{ChatTemplate, Message, ModelError, Package};
use serde_json::json;
use tempfile::TempDir;

/// A template as a package carries it.
fn template(text: &str, bos_token: &str, eos_token: &str) -> ChatTemplate {
    let folder = TempDir::new().unwrap();
    folder_of::write(folder.path(), "llama", &[]);
    let config = json!({"chat_template": text, "bos_token": bos_token, "eos_token": {"content": eos_token}});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Package::import(folder.path(), &folder.path().join("m.quern"), false).unwrap().chat_template().unwrap().unwrap()
}

fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message { role: (*role).to_owned(), content: (*content).to_owned() }).collect()
}

const TURNS: [(&str, &str); 4] = [("system", "Be brief."), ("user", " Hello "), ("assistant", "Hi."), ("user", "What is a quern?")];

/// Whitespace control on both sides, variables that may be missing, a slice, filters that bind tighter than a sum.
const LLAMA3: &str = r#"{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if tools is not defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
    {%- set turns = messages %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- raise_exception("no tools here") }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for turn in turns %}
    {%- if not (turn.role == 'ipython' or 'tool_calls' in turn) %}
        {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' + turn['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"#;

#[test]
fn llama_3_prompts_are_as_documented() {
    let template = template(LLAMA3, "<|begin_of_text|>", "<|eot_id|>");
    let prompt = template.render(&messages(&TURNS)).unwrap();
    let expected = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>\
        <|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>\
        <|start_header_id|>user<|end_header_id|>\n\nWhat is a quern?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(prompt, expected);
}

/// A default system message, `loop.first`, attributes that no message has.
const QWEN25: &str = r#"{%- if tools %}
    {{- raise_exception("no tools here") }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

#[test]
fn qwen_25_prompts_are_as_documented() {
    let template = template(QWEN25, "", "<|im_end|>");
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hello <|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n\
        <|im_start|>user\nWhat is a quern?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(template.render(&messages(&TURNS)).unwrap(), expected);
    let expected = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(template.render(&messages(&[("user", "Hello")])).unwrap(), expected);
}

/// A namespace that is written in a loop, a list backwards, methods of Python's texts, a test of a type.
const QWEN3: &str = r#"{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thoughts) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;

#[test]
fn qwen_3_prompts_leave_old_thoughts_out() {
    let template = template(QWEN3, "", "<|im_end|>");
    let turns = [("user", "Hello"), ("assistant", "<think>\nA greeting.\n</think>\n\nHi."), ("user", "And now?")];
    let expected = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(template.render(&messages(&turns)).unwrap(), expected);
    let turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "<think>\nA greeting.\n</think>\n\nHi.")];
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n\
        <|im_start|>assistant\n<think>\nA greeting.\n</think>\n\nHi.<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(template.render(&messages(&turns)).unwrap(), expected);
}

/// Comparisons of comparisons, a remainder, a variable that one branch sets, `loop.last`, a refusal.
const MISTRAL: &str = r#"{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}"#;

#[test]
fn mistral_prompts_are_as_documented_and_turns_must_alternate() {
    let template = template(MISTRAL, "<s>", "</s>");
    let prompt = template.render(&messages(&TURNS)).unwrap();
    assert_eq!(prompt, "<s>[INST]  Hello [/INST] Hi.</s>[INST] Be brief.\n\nWhat is a quern?[/INST]");
    let refused = template.render(&messages(&[("user", "a"), ("user", "b")])).unwrap_err();
    assert!(matches!(&refused, ModelError::Template { reason } if reason.contains("must alternate")), "{refused}");
}

/// Blocks without whitespace control, whose lines must leave nothing behind.
const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn smollm_2_prompts_are_as_documented() {
    let template = template(SMOLLM2, "<|im_start|>", "<|im_end|>");
    let expected = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(template.render(&messages(&[("user", "Hello")])).unwrap(), expected);
}

/// A role that is renamed by a variable set in a branch, and one that is refused.
const GEMMA: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";

#[test]
fn gemma_prompts_are_as_documented_and_have_no_system() {
    let template = template(GEMMA, "<bos>", "<eos>");
    let expected = "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n\
        <start_of_turn>user\nWhat is a quern?<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(template.render(&messages(&TURNS[1..])).unwrap(), expected);
    assert!(template.render(&messages(&TURNS)).unwrap_err().to_string().contains("System role not supported"));
}

/// Line blocks, as in a file: a block's line break goes with it.
const PHI3: &str = "{% for message in messages %}\n{% if message['role'] in ['system', 'user', 'assistant'] %}\n{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\n{{ '<|assistant|>\n' }}{% else %}\n{{ eos_token }}{% endif %}";

#[test]
fn phi_3_prompts_are_as_documented() {
    let template = template(PHI3, "<s>", "<|endoftext|>");
    let prompt = template.render(&messages(&TURNS[..2])).unwrap();
    assert_eq!(prompt, "<|system|>\nBe brief.<|end|>\n<|user|>\n Hello <|end|>\n<|assistant|>\n");
}

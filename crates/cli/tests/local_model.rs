//! A model on this machine as a user meets it: import, show, verify, run, chat, bench; and every way in which it says no.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const WORDS: [&str; 8] = ["<s>", "</s>", "the", "mill", "turns", "grain", "into", "flour"];

/// A folder of its own with a small Llama in it, and its package.
struct Home(tempfile::TempDir);

impl Home {
    fn new(context: usize) -> Self {
        Self::with_heads(context, [2, 1, 8])
    }

    /// A model of so many heads over so many for keys and values, each of so many dims.
    fn with_heads(context: usize, heads: [usize; 3]) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        write_llama(&home.path("hf"), context, heads);
        home.json(&["model", "import", &home.text("hf"), "--out", &home.text("m.quern")]);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
        command.arg("--home").arg(self.path("home")).args(args).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that does not read its input closes it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn stdout(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(&[args, &["--json"]].concat(), "")).unwrap()
    }

    /// What a command that must fail says, and its exit code.
    fn failure(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(&[args, &["--json"]].concat(), "");
        assert!(output.stdout.is_empty(), "{args:?} printed a result: {}", String::from_utf8_lossy(&output.stdout));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        (output.status.code().unwrap(), error["error"]["what"].as_str().unwrap().to_owned())
    }
}

/// 1 layer of dim 16, ffn 32; weights from a linear congruence.
fn write_llama(folder: &Path, context: usize, [heads, kv_heads, head_dim]: [usize; 3]) {
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let mut shapes = vec![("model.embed_tokens.weight", vec![WORDS.len(), 16]), ("model.norm.weight", vec![16])];
    let layer = [("q_proj", q, 16), ("k_proj", kv, 16), ("v_proj", kv, 16), ("o_proj", 16, q)]
        .map(|(name, rows, cols)| (format!("self_attn.{name}"), rows, cols));
    let ffn =
        [("gate_proj", 32, 16), ("up_proj", 32, 16), ("down_proj", 16, 32)].map(|(name, rows, cols)| (format!("mlp.{name}"), rows, cols));
    let names: Vec<(String, Vec<usize>)> =
        layer.into_iter().chain(ffn).map(|(name, rows, cols)| (format!("model.layers.0.{name}.weight"), vec![rows, cols])).collect();
    shapes.extend(names.iter().map(|(name, shape)| (name.as_str(), shape.clone())));
    shapes.push(("model.layers.0.input_layernorm.weight", vec![16]));
    shapes.push(("model.layers.0.post_attention_layernorm.weight", vec![16]));
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::<u8>::new(), 1u32);
    for (name, shape) in shapes {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = f32::from(i16::from_le_bytes([state.to_le_bytes()[2], state.to_le_bytes()[3]])) / 32_768.0;
            data.extend((if shape.len() == 1 { 1.0 } else { number }).to_le_bytes());
        }
        header.insert(name.to_owned(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string().into_bytes();
    fs::create_dir_all(folder).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(folder.join(name), content).unwrap();
    write("model.safetensors", &[&(header.len() as u64).to_le_bytes()[..], &header, &data].concat());
    let config = json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": context,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "num_hidden_layers": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "vocab_size": WORDS.len(), "eos_token_id": 1,
    });
    write("config.json", config.to_string().as_bytes());
    let vocabulary: serde_json::Map<_, _> = WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "unk_token": "<s>", "vocab": vocabulary},
    });
    write("tokenizer.json", tokenizer.to_string().as_bytes());
    let template = "{% for message in messages %}{{ message.content }} {% endfor %}into";
    write("tokenizer_config.json", json!({"chat_template": template}).to_string().as_bytes());
}

#[test]
fn run_prints_the_same_text_as_json_has_and_repeats_a_seed_on_any_threads() {
    let home = Home::new(64);
    let model = home.text("m.quern");
    let args = ["run", &model, "the mill", "--max-tokens", "9", "--temperature", "1", "--seed", "5", "--threads"];
    let one = home.json(&[&args[..], &["1"]].concat());
    let two = home.json(&[&args[..], &["2"]].concat());
    assert_eq!((&one["ids"], &one["text"]), (&two["ids"], &two["text"]));
    assert_eq!((&one["promptTokens"], &one["seed"]), (&json!(2), &json!("0x5")));
    let ids = one["ids"].as_array().unwrap();
    assert!(one["reason"] == "max_output" && ids.len() == 9 || one["reason"] == "stop" && *ids.last().unwrap() == 1, "{one}");
    let plain = home.stdout(&[&args[..], &["2"]].concat(), "");
    assert_eq!(plain.trim_end(), one["text"].as_str().unwrap().trim_end());
    // From standard input, and through the template: one message and what the template puts behind it.
    let chat = home.stdout(&["run", &model, "-", "--chat", "--max-tokens", "3", "--json"], "the mill");
    assert_eq!(serde_json::from_str::<Value>(&chat).unwrap()["promptTokens"], 3);
}

#[test]
fn a_conversation_computes_only_what_is_new() {
    let home = Home::new(64);
    let answers = home.stdout(&["chat", &home.text("m.quern"), "--max-tokens", "2", "--json"], "the mill\n\nturns grain\n");
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2, "an empty line is no message");
    let number = |answer: &Value, name: &str| answer[name].as_u64().unwrap();
    assert_eq!(number(&answers[0], "computedTokens"), number(&answers[0], "promptTokens"));
    assert!(number(&answers[1], "computedTokens") < number(&answers[1], "promptTokens"), "{answers:?}");
}

#[test]
fn what_cannot_be_run_is_said_before_anything_is_printed() {
    let home = Home::new(8);
    let model = home.text("m.quern");
    let (code, what) = home.failure(&["run", &model, "the mill turns grain into flour the mill turns"]);
    assert!(code == 1 && what.contains("9 tokens") && what.contains("room for 8"), "{what}");
    let (_, what) = home.failure(&["run", &model, ""]);
    assert!(what.contains("no tokens"), "{what}");
    let (_, what) = home.failure(&["run", &home.text("hf"), "the"]);
    assert!(what.contains("header.bin is missing"), "{what}");
    let (code, _) = home.failure(&["model", "import", &home.text("hf"), "--out", &model]);
    assert_eq!(code, 1, "a package is not replaced without --force");
    let (_, what) = home.failure(&["model", "bench", &model]);
    assert!(what.contains("context of 512"), "{what}");
    let (_, what) = home.failure(&["model", "embed", &model, "-"]);
    assert!(what.contains("is a decoder"), "{what}");

    let header = home.path("m.quern/header.bin");
    let whole = fs::read(&header).unwrap();
    let mut other = whole.clone();
    other[3] = 2;
    fs::write(&header, other).unwrap();
    let (_, what) = home.failure(&["run", &model, "the"]);
    assert!(what.contains("profile is 2"), "{what}");
    fs::write(&header, whole).unwrap();

    let weights = home.path("m.quern/weights.bin");
    let mut flipped = fs::read(&weights).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&weights, flipped).unwrap();
    let (code, what) = home.failure(&["model", "verify", &model]);
    assert!(code == 3 && what.contains("tensor"), "{code}: {what}");
    fs::remove_file(home.path("m.quern.packed")).unwrap();
    let (_, what) = home.failure(&["run", &model, "the"]);
    assert!(what.contains("tensor"), "{what}");
}

/// The keys and values of a whole context take 4 GiB here, more than the address space that the command is left.
#[cfg(unix)]
#[test]
fn keys_and_values_that_do_not_fit_are_refused_with_both_figures_before_they_are_taken() {
    let home = Home::with_heads(32_768, [1_024, 1_024, 32]);
    let limited = |args: &[&str]| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_quern"), "--home"]).arg(home.path("home"));
        command.args(args).args(["--json", "--threads", "1"]).env_clear().stdin(Stdio::null()).output().unwrap()
    };
    let model = home.text("m.quern");
    for args in [["run", &model, "the mill", "--max-tokens", "32768"].as_slice(), &["chat", &model, "--context", "32768"]] {
        let output = limited(args);
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        let what = error["error"]["what"].as_str().unwrap();
        assert!(what.contains("32768 positions take") && what.contains("MiB are free") && what.contains("--context"), "{what}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }
    let fits = limited(&["run", &model, "the mill", "--max-tokens", "4"]);
    assert!(fits.status.success(), "{}", String::from_utf8_lossy(&fits.stderr));
}

#[test]
fn verification_ends_with_3_whichever_byte_of_a_package_is_flipped() {
    let home = Home::new(64);
    let model = home.text("m.quern");
    home.json(&["model", "verify", &model]);
    let mut spoiled = 0;
    for file in ["m.quern/header.bin", "m.quern/weights.bin", "m.quern/tokenizer.json", "m.quern/chat.json", "m.quern.packed"] {
        let whole = fs::read(home.path(file)).unwrap();
        // Sixteen bytes spread over the file, the first and the last among them. Of a packed file, only behind its beginning: another beginning is a
        // file that is not used.
        let first = if file.ends_with(".packed") { 64 } else { 0 };
        for step in 0..16 {
            let at = first + (whole.len() - 1 - first) * step / 15;
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            fs::write(home.path(file), flipped).unwrap();
            let (code, what) = home.failure(&["model", "verify", &model]);
            assert_eq!(code, 3, "{file}, byte {at}: {what}");
            spoiled += 1;
        }
        fs::write(home.path(file), &whole[..whole.len() - 1]).unwrap();
        match home.run(&["model", "verify", &model], "").status.code() {
            // A packed file of another length is not used either; it is made anew.
            Some(0) if file.ends_with(".packed") => {}
            code => assert_eq!(code, Some(3), "{file}, cut"),
        }
        fs::write(home.path(file), whole).unwrap();
    }
    assert_eq!(spoiled, 80);
    let record = home.path("m.quern/conversion.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replacen("0x", "0y", 1)).unwrap();
    let (code, what) = home.failure(&["model", "verify", &model]);
    assert_eq!(code, 3, "{what}");
    fs::remove_dir_all(home.path("m.quern")).unwrap();
    assert_eq!(home.failure(&["model", "verify", &model]).0, 1, "what is not there differs from nothing");
}

#[test]
fn bench_prints_every_figure() {
    let home = Home::new(1024);
    let report = home.json(&["model", "bench", &home.text("m.quern"), "--threads", "1", "--profile"]);
    let rates =
        ["decode_tps", "prefill512_tps", "check_tps", "batch8_tps", "dram_gbps", "dram_share", "int8_peak_gops", "int8_kernel_gops"];
    for figure in rates.into_iter().chain(["packed_bytes", "kv_bytes", "open_seconds"]) {
        assert!(report[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {report}");
    }
    assert_eq!((&report["threads"], &report["check_ids"]), (&json!(1), &json!(512)));
    assert_eq!(report["packed_bytes"], json!(fs::metadata(home.path("m.quern.packed")).unwrap().len()));
    let profile = report["profile"].as_array().unwrap();
    for step in ["decode", "batch of 8", "check 256"] {
        let shares = profile.iter().filter(|line| line["step"] == step).map(|line| line["share"].as_f64().unwrap());
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{report}");
    }
    let shown = home.json(&["model", "show", &home.text("m.quern")]);
    assert_eq!((&shown["header"]["family"], &shown["header"]["stopIds"]), (&json!(2), &json!([1])));
}

#[test]
fn bench_measures_only_the_parts_that_were_asked_for() {
    let home = Home::new(512);
    let report = home.json(&["model", "bench", &home.text("m.quern"), "--threads", "1", "--runs", "1", "--parts", "prefill"]);
    assert!(report["prefill512_tps"].as_f64().is_some_and(|figure| figure > 0.0), "{report}");
    for figure in ["decode_tps", "check_tps", "batch8_tps", "dram_gbps", "dram_share", "int8_peak_gops"] {
        assert!(report[figure].is_null(), "{figure}: {report}");
    }
}

#[test]
fn bench_of_an_encoder_prints_its_sentences_per_second() {
    let home = Home::new(16);
    let report = home.json(&["model", "bench", "--shape", "minilm", "--threads", "1", "--runs", "1", "--tokens", "3"]);
    assert!(report["sentences_per_second"].as_f64().is_some_and(|figure| figure > 0.0), "{report}");
    assert_eq!((&report["sentences"], &report["tokens"]), (&json!(32), &json!(3)));
    let (_, what) = home.failure(&["model", "bench", "--shape", "minilm", "--tokens", "513"]);
    assert!(what.contains("513"), "{what}");
}

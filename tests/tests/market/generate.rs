//! Text is sold by its ids.

use std::{collections::BTreeMap, fs, path::Path};

use quern_testkit::{Daemon, eventually, text};
use serde_json::{Value, json};

use crate::story::{PATIENCE, Story};

/// Least unit of the prices below: 0.0001 tokens.
const PRICE: u128 = 100_000_000_000_000;
/// Words by their ids; the first four are special.
const WORDS: [&str; 40] = [
    "[PAD]", "[UNK]", "[BOS]", "[EOS]", "the", "mill", "stone", "water", "turns", "grain", "wheel", "river", "a", "b", "c", "d", "e",
    "old", "new", "day", "night", "is", "was", "and", "or", "not", "in", "on", "of", "one", "two", "three", "four", "five", "flour",
    "bread", "pays", "who", "if", "nobody",
];
const PROMPTS: &str = "the mill turns\nwho pays if nobody turns the wheel\n\nflour and bread\n";

/// A story in which a decoder with random weights is registered too.
struct Tale {
    story: Story,
    package: String,
    model: String,
}

impl Tale {
    fn begin(context: u32) -> Self {
        let story = Story::begin().unwrap();
        let folder = story.market.devnet.folder().join("checkpoint");
        write_checkpoint(&folder, context);
        let package = story.market.devnet.folder().join("mill.quern").to_string_lossy().into_owned();
        let publisher = &story.market.publisher;
        publisher.quern(&["model", "import", &folder.to_string_lossy(), "--out", &package]).unwrap();
        let registered = publisher.quern_one(&["model", "register", &package, "--name", "mill", "--royalty-bps", "250"]).unwrap();
        let model = text(&registered, "modelId").unwrap();
        Self { story, package, model }
    }

    /// The provider's worker with this model, at a price per output id that the royalty leaves it.
    fn worker(&self, more: &[&str]) -> Daemon {
        let Story { owner, operator, client, .. } = &self.story;
        let fixed = ["worker", "run", "--provider", &owner.address, "--package", &self.package, "--price-output", "0.00005"];
        let args = [fixed.as_slice(), &["--gateway", &client.gateway], more].concat();
        let mut worker = operator.spawn(&args).unwrap();
        worker.wait_for_line("worker.ready", PATIENCE).unwrap();
        worker
    }

    fn args(&self, prompts: &str, more: &[&str]) -> Vec<String> {
        let file = self.story.file(prompts).unwrap();
        let fixed = ["generate", &file.to_string_lossy(), "--model", &self.model, "--package", &self.package];
        let price = ["--output-price", "0.0001", "--input-price", "0.0001", "--yes"];
        [fixed.as_slice(), &price, more].concat().into_iter().map(str::to_owned).collect()
    }

    fn generate(&self, prompts: &str, more: &[&str]) -> Vec<Value> {
        let args = self.args(prompts, more);
        self.story.client.quern(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
    }

    fn recompute(&self, id: &str) -> Value {
        let Story { operator, client, .. } = &self.story;
        let args = ["audit", "job", id, "--package", &self.package, "--gateway", &operator.gateway, "--gateway", &client.gateway];
        client.quern_one(&args).unwrap()
    }
}

#[test]
fn text_is_generated_paid_by_its_ids_and_checked() {
    let tale = Tale::begin(64);
    let story = &tale.story;
    let mut worker = tale.worker(&[]);

    // Nothing is posted that the model cannot read.
    let long = format!("the mill\n{}\nwater\n{}\n", "the ".repeat(64), "mill ".repeat(70));
    let args = tale.args(&long, &[]);
    let (_, said) = story.client.quern_fails(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert!(said.contains("line 2 has 65 ids, line 4 has 71 ids"), "{said}");
    assert!(story.jobs().unwrap().is_empty());

    let seed = format!("0x{}", "07".repeat(32));
    let drawn = ["--samples", "2", "--temperature", "1", "--min-p", "0.01", "--seed", &seed, "--max-tokens", "12"];
    let results = tale.generate(PROMPTS, &drawn);
    let ids = |result: &Value| result["ids"].as_array().unwrap().len();
    assert_eq!(results.len(), 8, "two samples of four lines");
    let places: Vec<_> = results.iter().map(|result| (result["item"].as_u64().unwrap(), result["sample"].as_u64().unwrap())).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    for result in &results {
        let (reason, text) = (result["reason"].as_str().unwrap(), result["text"].as_str().unwrap());
        match result["item"].as_u64().unwrap() {
            2 => assert_eq!((reason, ids(result), text), ("empty_item", 0, "")),
            _ => assert!((["stop", "max_output"].contains(&reason)) && (1..=12).contains(&ids(result)), "{result}"),
        }
    }
    assert_ne!(results[0]["ids"], results[1]["ids"], "samples are drawn apart");

    let id = story.only_job().unwrap();
    let job = story.wait_for_state(&id, "completed", 10).unwrap();
    let output_ids: usize = results.iter().map(ids).sum();
    assert_eq!((job["kind"].as_str(), job["samples"].as_u64(), job["max_output"].as_u64()), (Some("generate"), Some(2), Some(12)));
    assert_eq!(job["output_ids"].as_u64().unwrap(), output_ids as u64);
    let fee: u128 = job["fee"].as_str().unwrap().parse().unwrap();
    assert_eq!(fee, PRICE * u128::from(job["input_ids"].as_u64().unwrap()) + PRICE * output_ids as u128);
    assert_eq!(story.balance(&story.owner, "free").unwrap(), fee - fee * 250 / 10_000);
    assert_eq!(story.balance(&story.client, "escrow").unwrap(), 0);

    let verdict = tale.recompute(&id);
    assert_eq!((&verdict["equal"], &verdict["difference"]), (&json!(true), &Value::Null), "{verdict}");
    // Whoever draws with the same seed gets the same ids, from any worker, in any batch.
    let one = tale.generate("the mill turns\n", &drawn);
    assert_eq!(one.iter().map(|result| &result["ids"]).collect::<Vec<_>>(), [&results[0]["ids"], &results[1]["ids"]]);

    let (_indexer, api) = story.market.indexer().unwrap();
    let indexed = eventually("the index to have the job", PATIENCE, || {
        let job = api.get(&format!("/v1/jobs/{id}")).ok();
        Ok(job.filter(|job| job.pointer("/data/state").is_some_and(|state| state == "completed")))
    });
    let indexed = indexed.unwrap();
    assert_eq!(indexed.pointer("/data/kind"), Some(&json!("generate")));
    assert_eq!(indexed.pointer("/data/spec/samplesPerItem"), Some(&json!(2)));
    assert_eq!(indexed.pointer("/data/receipt/outputLen"), Some(&json!(output_ids)));
    story.audit().unwrap();
    assert!(worker.terminate().unwrap().success());
}

#[test]
fn worker_killed_while_it_generates_delivers_the_same_text_after_its_restart() {
    let tale = Tale::begin(2_048);
    let story = &tale.story;
    let prompts: String = WORDS[4..].iter().map(|word| format!("the {word} of one {word}\n")).collect();
    let mut worker = tale.worker(&[]);
    let mut args = tale.args(&prompts, &["--samples", "4", "--temperature", "1", "--max-tokens", "600", "--no-stop"]);
    args.push("--json".into());
    let mut client = story.client.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    worker.wait_for_line("job.computing", PATIENCE).unwrap();
    worker.kill().unwrap();
    assert!(!worker.output().unwrap().contains("job.computed"), "it was killed too late to tell anything");

    let mut worker = tale.worker(&[]);
    assert!(client.wait_for_end(PATIENCE).unwrap().success(), "{}", client.output().unwrap());
    let id = story.only_job().unwrap();
    let job = story.wait_for_state(&id, "completed", 10).unwrap();
    assert_eq!(job["output_ids"], json!(36 * 4 * 600));
    let claims = job["steps"].as_array().unwrap().iter().filter(|step| step["event"] == "JobClaimed").count();
    assert_eq!(claims, 1);
    assert_eq!(tale.recompute(&id)["equal"], true);
    assert_eq!(story.client.quern(&["job", "result", &id, "--package", &tale.package]).unwrap().len(), 36 * 4);
    story.audit().unwrap();
    assert!(worker.terminate().unwrap().success());
}

#[test]
fn job_whose_keys_and_values_do_not_fit_is_refused_before_it_is_claimed() {
    let tale = Tale::begin(2_048);
    let story = &tale.story;
    let worker = tale.worker(&["--kv-limit-bytes", "100000"]);
    let mut args = tale.args("the mill\n", &["--max-tokens", "1500", "--claim-within", "30"]);
    args.push("--json".into());
    let mut client = story.client.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let id = story.only_job().unwrap();
    let reason = eventually("the worker to say why it refuses", PATIENCE, || {
        let status = story.operator.quern_one(&["worker", "status"])?;
        Ok(status["refusals"].as_array().and_then(|all| all.first()?["reason"].as_str().map(str::to_owned)))
    });
    assert!(reason.unwrap().contains("--kv-limit-bytes"));
    assert_eq!(story.job(&id).unwrap()["state"], "open");
    // The same worker takes what fits.
    let small = tale.generate("the mill\n", &["--max-tokens", "4"]);
    assert_eq!(small.len(), 1);
    client.kill().unwrap();
    story.client.quern(&["job", "cancel", &id]).unwrap();
    story.audit().unwrap();
    drop(worker);
}

#[test]
fn worker_whose_package_has_one_flipped_byte_stops_and_claims_nothing() {
    let tale = Tale::begin(64);
    let story = &tale.story;
    let mut args = tale.args("the mill turns\n", &["--max-tokens", "4"]);
    args.push("--json".into());
    let mut buyer = story.client.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let id = story.only_job().unwrap();
    for file in [format!("{}/weights.bin", tale.package), format!("{}.packed", tale.package)] {
        let whole = fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&file, flipped).unwrap();
        let Story { owner, operator, client, .. } = story;
        let args = ["worker", "run", "--provider", &owner.address, "--package", &tale.package, "--price-output", "0.0001"];
        let mut worker = operator.spawn(&[args.as_slice(), &["--gateway", &client.gateway]].concat()).unwrap();
        assert!(!worker.wait_for_end(PATIENCE).unwrap().success());
        let said = worker.output().unwrap();
        assert!(said.contains("tensor") && !said.contains("model.verified"), "{said}");
        assert_eq!(story.job(&id).unwrap()["state"], "open", "{file}");
        fs::write(&file, whole).unwrap();
    }
    // The same worker with the whole package takes the job that waits.
    let mut worker = tale.worker(&[]);
    assert!(buyer.wait_for_end(PATIENCE).unwrap().success(), "{}", buyer.output().unwrap());
    story.wait_for_state(&id, "completed", 10).unwrap();
    assert!(worker.terminate().unwrap().success());
    story.audit().unwrap();
}

#[test]
fn eight_jobs_of_one_prompt_that_are_posted_at_once_are_all_paid_and_audited() {
    let tale = Tale::begin(2_048);
    let story = &tale.story;
    let prompts: String = WORDS[4..12].iter().map(|word| format!("the {word} of one {word}\n")).collect();
    let drawn = ["--temperature", "1", "--seed", "7", "--max-tokens", "600", "--no-stop", "--batch", "1"];
    let mut args = tale.args(&prompts, &drawn);
    args.push("--json".into());
    let mut client = story.client.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let mut worker = tale.worker(&[]);
    assert!(client.wait_for_end(PATIENCE).unwrap().success(), "{}", client.output().unwrap());
    let jobs = story.jobs().unwrap();
    assert_eq!(jobs.len(), 8);
    for job in &jobs {
        let id = text(job, "id").unwrap();
        story.wait_for_state(&id, "completed", 10).unwrap();
        assert_eq!(tale.recompute(&id)["equal"], true, "{id}");
    }
    story.audit().unwrap();
    assert!(worker.terminate().unwrap().success());
}

/// A Llama with random weights as Hugging Face publishes them: 2 layers of 4 heads over 2, dim 48.
fn write_checkpoint(folder: &Path, context: u32) {
    const DIM: usize = 48;
    const FFN: usize = 160;
    fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": DIM, "intermediate_size": FFN,
        "max_position_embeddings": context, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": WORDS.len(), "bos_token_id": 2, "eos_token_id": 3,
        "torch_dtype": "float32",
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer().to_string()).unwrap();

    let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    shapes.insert("model.embed_tokens.weight".into(), vec![WORDS.len(), DIM]);
    shapes.insert("lm_head.weight".into(), vec![WORDS.len(), DIM]);
    shapes.insert("model.norm.weight".into(), vec![DIM]);
    for layer in 0..2 {
        let linears = [
            ("self_attn.q_proj", DIM, DIM),
            ("self_attn.k_proj", DIM / 2, DIM),
            ("self_attn.v_proj", DIM / 2, DIM),
            ("self_attn.o_proj", DIM, DIM),
            ("mlp.gate_proj", FFN, DIM),
            ("mlp.up_proj", FFN, DIM),
            ("mlp.down_proj", DIM, FFN),
        ];
        for (name, rows, columns) in linears {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), vec![rows, columns]);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), vec![DIM]);
        }
    }
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::new(), 11u64);
    for (name, shape) in &shapes {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            // splitmix64: the same weights on every machine.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let fraction = f32::from(i16::try_from((z >> 33) % 4_001).unwrap() - 2_000) / 2_000.0;
            let value = if shape.len() == 1 { 1.0 + 0.3 * fraction } else { 0.4 * fraction };
            data.extend(value.to_le_bytes());
        }
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// Words between spaces, [BOS] before each text.
fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<_, _> = WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": WORDS[id], "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[BOS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[BOS]": {"id": "[BOS]", "ids": [2], "tokens": ["[BOS]"]}},
        },
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocabulary},
    })
}

//! A run is a function of its settings: not of the number of threads, nor of where it was cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use quern_trainer::{Generator, Pace, Question, Settings, Shape, Split, TrainError, evaluate, load, train};

fn settings(steps: usize) -> Settings {
    let shape = Shape { vocab_size: 400, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, ..Shape::shipped() };
    Settings { seed: 1, steps, batch: 8, rate: 3e-3, warm_up: 2, tokenizer_sentences: 500, watched_sentences: 8, shape }
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

fn pace(threads: usize, stop_after: Option<usize>) -> Pace {
    Pace { threads, checkpoint_every: 100, stop_after }
}

#[test]
fn the_weights_do_not_depend_on_the_number_of_threads() {
    let (one, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&settings(6), one.path(), pace(1, None)).unwrap();
    train(&settings(6), three.path(), pace(3, None)).unwrap();
    assert_eq!(weights(one.path()), weights(three.path()));
}

#[test]
fn a_run_cut_short_goes_on_to_the_weights_of_an_uncut_one_even_where_it_is_made_longer() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&settings(20), whole.path(), pace(2, None)).unwrap();
    train(&settings(14), cut.path(), pace(2, Some(8))).unwrap();
    assert_ne!(weights(whole.path()), weights(cut.path()));
    train(&settings(20), cut.path(), pace(2, None)).unwrap();
    assert_eq!(weights(whole.path()), weights(cut.path()));
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    train(&settings(10), folder.path(), pace(2, Some(9))).unwrap();
    // Step 9 of 10 has a lower rate than step 9 of 40; another batch is another run altogether.
    for other in [settings(40), Settings { batch: 9, ..settings(10) }, Settings { seed: 2, ..settings(10) }] {
        let error = train(&other, folder.path(), pace(2, None)).unwrap_err();
        assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
    }
    assert!(train(&settings(10), folder.path(), pace(2, None)).unwrap().is_some());
}

#[test]
fn the_loss_falls_and_the_folder_gives_the_model_back() {
    let folder = tempfile::tempdir().unwrap();
    let loss = train(&settings(40), folder.path(), pace(2, None)).unwrap().unwrap();
    assert!(loss < 0.8 * 400_f64.ln(), "{loss} nats per token");
    let (model, vocabulary) = load(folder.path()).unwrap();
    let generator = Generator::new(1, Split::HeldOut).unwrap();
    let questions: Vec<Question> = (0..20).map(|index| (&generator.sample(index).unwrap()).into()).collect();
    let report = evaluate(&model, &vocabulary, &questions).unwrap();
    assert_eq!(report.scored.len(), 20);
    assert!(report.exact() < 20, "forty steps do not make a model");
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{name}");
    }
}

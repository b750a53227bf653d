//! Released models by their `config.json`, as `tests/golden/models/` has them: each one is a test of its
//! own on every backend.

use condensed_rope::config::{Config, Rotary};
use condensed_rope::{Dtype, Frequencies, Layout, Positions};

use crate::{Backend, Case, Values, check};

/// Tests of one backend, one a model: `testkit::models!([#[attributes]] backend)`. The list of models, with
/// their query and key heads, is here and nowhere else.
#[macro_export]
macro_rules! models {
    ([$(#[$attribute:meta])*] $backend:expr) => {
        $crate::models! { @with tests ([$(#[$attribute])*] $backend) }
    };
    (@with $what:ident $arguments:tt) => {
        $crate::models! { @$what $arguments
            longchat_7b_16k: [32, 32],
            vicuna_13b_v1_5_16k: [40, 40],
            llama_2_7b_32k: [32, 32],
            llama_3_1_8b: [32, 8],
            llama_3_1_70b: [64, 8],
            llama_3_1_405b: [128, 8],
            llama_3_2_1b: [32, 8],
            qwen2_5_7b: [28, 4],
            qwen3_8b: [32, 8],
            phi_3_5_mini: [32, 32],
            phi_4_mini: [24, 8],
            deepseek_v3: [128, 1],
            gemma_3_12b: [16, 8],
            gpt_oss_120b: [64, 8],
            glm_4_9b: [32, 2],
            stablelm_3b: [32, 32],
            gpt_neox_20b: [64, 64],
            gpt_j_6b: [16, 16],
            falcon_7b: [71, 1],
            qwen2_vl_7b: [28, 4],
            qwen3_vl_8b: [32, 8],
            kind_dynamic: [8, 8],
            kind_proportional: [8, 8],
        }
    };
    (@table () $($name:ident: $heads:expr,)*) => {
        /// Names of the models.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// A model's `config.json`, and its query and key heads.
        fn model(name: &str) -> (&'static str, [usize; 2]) {
            $(if name == stringify!($name) {
                let json = include_str!(concat!(
                    "../../../tests/golden/models/",
                    stringify!($name),
                    ".json"
                ));
                return (json, $heads);
            })*
            panic!("no model {name}")
        }
    };
    (@tests $arguments:tt $($name:ident: $heads:expr,)*) => {
        $($crate::models! { @test $arguments $name })*
    };
    (@test ([$(#[$attribute:meta])*] $backend:expr) $name:ident) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            $crate::conformance::models::rotates(&$backend, stringify!($name));
        }
    };
}
models! { @with table () }

/// The text of a model's config.
pub fn json(name: &str) -> &'static str {
    model(name).0
}

/// The config of a model.
pub fn config(name: &str) -> Config {
    Config::from_json(json(name)).expect("a config that is understood")
}

/// The ways in which layers of a config rotate.
pub fn rotaries(config: &Config) -> Vec<&Rotary> {
    config.groups.iter().filter_map(|group| group.rotary.as_ref()).collect()
}

/// Every layer type of a model, at the original length and past it, in bf16 and f32, exact and with the
/// CPU backend's bits.
pub fn rotates(backend: &impl Backend, name: &str) {
    let (_, heads) = model(name);
    for rotary in rotaries(&config(name)) {
        let mut schedule = rotary.schedule.clone();
        rotates_by(backend, rotary, schedule.frequencies(), heads);
        if schedule.depends_on_length() {
            assert!(
                schedule.set_length(1 << 17),
                "{name} has other frequencies for long sequences"
            );
            rotates_by(backend, rotary, schedule.frequencies(), heads);
            assert!(schedule.set_length(1) && schedule == rotary.schedule);
        }
    }
}

fn rotates_by(
    backend: &impl Backend,
    rotary: &Rotary,
    frequencies: &Frequencies,
    heads: [usize; 2],
) {
    const TOKENS: usize = 5;
    let q = Layout::thd(TOKENS, heads[0], rotary.head_dim).rotate_from(rotary.rotary_offset);
    // MLA's key: one head, its rotated channels behind the latent ones.
    let k = match rotary.rotary_offset {
        0 => Layout::thd(TOKENS, heads[1], rotary.head_dim),
        _ => Layout::thd(TOKENS, heads[1], 512 + rotary.rotary_dim).rotate_from(512),
    };
    let ids = [0, 1, 77, 16_383, 131_071];
    let positions = match rotary.sections {
        None => Positions::ids(Values::I64(ids.to_vec())),
        Some(sections) => {
            let axes = [ids, [3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]].concat();
            Positions::axes(Values::I64(axes[..TOKENS * sections.axes()].to_vec()), sections)
        }
    };
    for dtype in [Dtype::BF16, Dtype::F32] {
        check(
            backend,
            &Case {
                dtype,
                pairing: rotary.pairing,
                sets: vec![frequencies.clone()],
                positions: positions.clone(),
                ..Case::of(rotary.rotary_dim, q, Some(k))
            },
        );
    }
}

//! What every backend must show, and one macro that makes tests of it.

pub mod append;
pub mod grids;
pub mod models;
pub mod mrope_and_sets;
pub mod properties;
pub mod rejections;

/// Tests of one backend: `testkit::suite!(expression)`, or
/// `testkit::suite!(ignore = "reason"; expression)`.
#[macro_export]
macro_rules! suite {
    (ignore = $reason:literal; $backend:expr) => {
        $crate::suite! { @all [#[ignore = $reason]] $backend }
    };
    (@all $attributes:tt $backend:expr) => {
        $crate::suite! { @tests $attributes $backend =>
            flashinfer_grid: grids::flashinfer,
            flashinfer_table_cases: grids::flashinfer_table,
            vllm_grid: grids::vllm,
            liger_and_transformer_engine_shapes: grids::liger_and_transformer_engine,
            ratios_and_positions: grids::ratios_and_positions,
            odd_rotary_dims_at_any_alignment: grids::odd_rotary_dims,
            every_rotary_dim: grids::every_rotary_dim,
            shapes_of_real_models: grids::model_shapes,
            threads_share_any_number_of_heads: grids::shares_of_heads,
            every_kind_of_positions: grids::positions,
            q_alone_and_k_alone: grids::alone,
            positions_on_several_axes: mrope_and_sets::axes,
            sets_of_frequencies: mrope_and_sets::sets,
            random_calls: grids::random,
            bad_calls_are_refused: rejections::refusals,
            views_that_end_past_their_buffers_are_refused: rejections::short_buffers,
            empty_calls_do_nothing: rejections::nothing_to_do,
            empty_calls_are_checked: rejections::empty_calls_are_checked,
            nan_and_infinity_have_the_same_bits: properties::special_values,
            batching_and_sharding_do_not_matter: properties::sharding,
            inverse_undoes_forward: properties::inverse,
            tables_are_exact_and_have_the_same_bits: properties::tables,
            random_appends: append::random_calls,
            appends_by_every_vector_and_cut: append::vectors_and_cuts,
            appends_of_models: append::models,
            batching_and_sharding_do_not_matter_to_appends: append::sharding,
            appends_past_their_buffers_are_refused: append::short_buffers,
            hostile_calls_do_what_they_say_or_nothing: properties::hostile,
        }
    };
    (@tests $attributes:tt $backend:expr => $($name:ident: $($path:ident)::+,)*) => {
        $($crate::suite! { @test $attributes $name $backend => $($path)::+ })*
    };
    (@test [$(#[$attribute:meta])*] $name:ident $backend:expr => $($path:ident)::+) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            $crate::conformance::$($path)::+(&$backend);
        }
    };
    ($backend:expr) => {
        $crate::suite! { @all [] $backend }
    };
}

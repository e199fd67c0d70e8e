//! The macro that declares a custom operation: its forward and backward traits, which Burn dispatches to a backend, and its autodiff rule.

/// Declares a custom operation on float tensors that saves its inputs for the backward pass.
///
/// ```text
/// operation! {
///     GeluOps::gelu => GeluGradOps::gelu_backward -> GeluGrads (GeluGradsMetadata) by GeluNode,
///     [1] x; approximate: bool
///     => x of x.clone()
/// }
/// ```
/// declares the backend trait `GeluOps` with the function `gelu(x, approximate)` and the trait `GeluGradOps` with
/// `gelu_backward(grad, x, approximate) -> GeluGrads { x }`, and implements the first for every autodiff backend. Flex (the CPU) and, with
/// the feature `cube`, the GPU backend then implement both traits.
///
/// `[1]` is the number of tensors. Plain arguments follow the semicolon. The last line names the input whose type the output has, and gives
/// the output's shape as an expression of the inputs' shapes (references under the inputs' names) and the plain arguments; with the feature
/// `fusion` Burn needs both before it runs the operation. Gradients have the types and shapes of their inputs. `GeluGradsMetadata` is the
/// name that Burn's macro derives.
macro_rules! operation {
    (
        $ops:ident :: $forward:ident => $grad_ops:ident :: $backward:ident -> $grads:ident ($metadata:ident) by $node:ident,
        [$count:literal] $($input:ident),+ $(; $($arg:ident : $ty:ty),+)?
        => $like:ident of $shape:expr
    ) => {
        /// Gradients of the loss with respect to each input.
        #[derive(burn::backend::ExtensionType)]
        #[extension_type(fusion: cfg(feature = "fusion"))]
        pub struct $grads<B: burn::backend::Backend> {
            $(pub $input: burn::backend::tensor::FloatTensor<B>,)+
        }

        /// The forward operation.
        #[burn::backend::backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
        pub trait $ops: burn::backend::Backend {
            #[fusion(dtype = $like, shape = { $shape })]
            fn $forward($($input: burn::backend::tensor::FloatTensor<Self>),+ $(, $($arg: $ty),+)?) -> burn::backend::tensor::FloatTensor<Self>;
        }

        /// The backward operation: the gradient of the output first, then the inputs of the forward operation.
        #[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
        pub trait $grad_ops: burn::backend::Backend {
            #[fusion(meta = |_grad, $($input),+ $(, $($arg),+)?| {
                $($(let _ = $arg;)+)?
                $metadata { $($input: $input.clone()),+ }
            })]
            fn $backward(grad: burn::backend::tensor::FloatTensor<Self>, $($input: burn::backend::tensor::FloatTensor<Self>),+ $(, $($arg: $ty),+)?) -> $grads<Self>;
        }

        #[derive(Debug)]
        struct $node {
            $($($arg: $ty,)+)?
        }

        impl<B: $ops + $grad_ops> burn::backend::autodiff::ops::Backward<B, $count> for $node {
            type State = [burn::backend::tensor::FloatTensor<B>; $count];

            fn backward(
                self,
                ops: burn::backend::autodiff::ops::Ops<Self::State, $count>,
                grads: &mut burn::backend::autodiff::grads::Gradients,
                _checkpointer: &mut burn::backend::autodiff::checkpoint::base::Checkpointer,
            ) {
                let grad = grads.consume::<B>(&ops.node);
                let [$($input),+] = ops.state;
                let result = B::$backward(grad, $($input),+ $(, $(self.$arg),+)?);
                for (node, grad) in ops.parents.into_iter().zip([$(result.$input),+]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }

        impl<B: $ops + $grad_ops, C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> $ops
            for burn::backend::Autodiff<B, C>
        {
            fn $forward(
                $($input: burn::backend::tensor::FloatTensor<Self>),+ $(, $($arg: $ty),+)?
            ) -> burn::backend::tensor::FloatTensor<Self> {
                use burn::backend::autodiff::ops::{Backward, OpsKind};
                let nodes = [$($input.node()),+];
                let inputs = [$($input.into_primitive()),+];
                let node = $node { $($($arg: $arg.clone(),)+)? };
                match Backward::<B, $count>::prepare::<C>(node, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prepared) => {
                        let [$($input),+] = inputs.clone();
                        prepared.finish(inputs, B::$forward($($input),+ $(, $($arg),+)?))
                    }
                    OpsKind::UnTracked(prepared) => {
                        let [$($input),+] = inputs;
                        prepared.finish(B::$forward($($input),+ $(, $($arg),+)?))
                    }
                }
            }
        }
    };
}

pub(crate) use operation;

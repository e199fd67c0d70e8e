//! Declares a custom operation: the forward and backward traits Burn routes to a backend, and the autodiff rule, said once for all.

/// Declares a custom operation on float tensors that keeps its inputs for the backward pass.
///
/// ```text
/// operation! {
///     GeluOps::gelu => GeluGradOps::gelu_backward -> GeluGrads by GeluNode,
///     [1] x; approximate: bool
/// }
/// ```
/// declares the backend trait `GeluOps` with the function `gelu(x, approximate)`, the trait `GeluGradOps` with
/// `gelu_backward(grad, x, approximate) -> GeluGrads { x }`, and implements the first for every autodiff backend. A backend then
/// implements both traits. `[1]` is the number of tensors; what follows the semicolon are plain arguments.
macro_rules! operation {
    (
        $ops:ident :: $forward:ident => $grad_ops:ident :: $backward:ident -> $grads:ident by $node:ident,
        [$count:literal] $($input:ident),+ $(; $($arg:ident : $ty:ty),+)?
    ) => {
        /// Gradients of the loss with respect to each input.
        #[derive(burn::backend::ExtensionType)]
        pub struct $grads<B: burn::backend::Backend> {
            $(pub $input: burn::backend::tensor::FloatTensor<B>,)+
        }

        /// The forward operation.
        #[burn::backend::backend_extension(Autodiff, Flex)]
        pub trait $ops: burn::backend::Backend {
            #[allow(clippy::too_many_arguments)]
            fn $forward($($input: burn::backend::tensor::FloatTensor<Self>),+ $(, $($arg: $ty),+)?) -> burn::backend::tensor::FloatTensor<Self>;
        }

        /// The backward operation: the gradient of the output first, then the inputs of the forward operation.
        #[burn::backend::backend_extension(Flex)]
        pub trait $grad_ops: burn::backend::Backend {
            #[allow(clippy::too_many_arguments)]
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

/**
 * The attentions that the paper of SAS compares (arXiv 2507.07694, tables), as modules: x [B, T, C] -> [B, T, C] with every
 * projection inside, forward and backward explicit, composed of the package's ops.
 */
export { type LatentConfig, MultiHeadLatentAttention } from './latent_attention.js';
export { MatrixFactorizationAttention, type MatrixFactorizationConfig } from './matrix_factorization_attention.js';
export { MultiHeadAttention, type MultiHeadConfig } from './multi_head_attention.js';
export { SelfAttention, type SelfAttentionConfig, type SelfAttentionGradients } from './self_attention.js';
export { SimulatedAttention, type SimulatedConfig } from './simulated_attention.js';
export { TensorProductAttention, type TensorProductConfig } from './tensor_product_attention.js';

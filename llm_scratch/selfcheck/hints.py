"""The hints of a report after a usual mistake: where to look, not the answer."""

from __future__ import annotations

# Calling
SIGNATURE = (
    "The book calls it with these arguments in this order; see which of yours is missing, "
    "extra or out of place."
)
SHAPE = "Print the shape after each step and find the first one that surprises you."
NOT_TENSOR = "Look at the last line: is the result returned?"
NAN = (
    "Some row divides 0 by 0, or every entry of a row was masked. Can every token see at least "
    "itself? Is a small number added before dividing?"
)
GRADIENT = (
    "Some parameter never takes part in the result, or is cut off from it. Look for a layer that "
    "is made but not used, and for .detach(), .item() or torch.no_grad() on the way."
)
UNREGISTERED = (
    "Layers and parameters are found only as attributes of the module, in nn.ModuleList or in "
    "nn.Sequential; a plain Python list hides them."
)
PARAMETERS = "Count by hand, layer by layer: which weight or bias is missing, or one too many?"
ORDER_OF_CREATION = (
    "That is not a fault. The printed numbers come out only when the parameters are created with "
    "the book's layers in the book's order after the seed; another order or another kind of layer "
    "draws other numbers."
)
STATE_NAMES = (
    "That is not a fault. The attributes need the book's names only to load weights that the "
    "book's classes saved."
)
DROPOUT_IN_EVAL = (
    "Results differ from call to call in evaluation mode. Which of your dropouts ignores "
    "model.eval()?"
)
NO_DROPOUT = "In training mode nothing is dropped. Is the dropout layer made, and also called?"

# Chapter 2
SPLIT = "Compare the list of pieces with the book's: blanks dropped, each mark a piece of its own."
JOIN = "Look at the blanks around punctuation after joining the words."
INVERSE = "Decoding looks up ids; is the second dictionary really the inverse of the first?"
UNKNOWN = "What happens to a word that is not in the vocabulary, before its id is looked up?"
TARGETS_NOT_SHIFTED = (
    "Inputs and targets are the same. What should the model have predicted at each position?"
)
TARGETS_SHIFTED_WRONG = "The targets are shifted, but not by one place to the next token."
STRIDE_IGNORED = "Windows start in the wrong places. Which of the arguments moves the window?"
RAGGED = "The last windows are shorter than the others. Where must the loop over starts end?"
WINDOWS = "Count the starts of windows by hand for a text of ten tokens."
SHUFFLE = "See what is passed on to DataLoader for shuffle."
DROP_LAST = "See what is passed on to DataLoader for drop_last."

# Chapter 3
SOFTMAX = "Write the formula for three numbers on paper: what is divided by what?"
NO_SCALE = "The scores grow with the width of the keys. What does the formula divide them by?"
SCALE = "The scores are divided, but not by the right number. Which width counts, and how?"
SOFTMAX_DIM = "Along which dimension must the weights of one query add up to 1?"
QUERIES_KEYS = "Queries and keys are swapped. Which one asks, and which one answers?"
VALUES = "The weights are right; look at what they are multiplied by."
NO_MASK = "Tokens see what comes after them. Where is the mask made, and where is it applied?"
MASK_AFTER_SOFTMAX = (
    "The mask is applied after the softmax, and the rest of a row no longer adds up to 1. When "
    "must a score be hidden so that softmax never counts it?"
)
MASK_WITH_ZERO = "Hidden scores are set to 0, which softmax still counts. What gets a weight of 0?"
MASK_REVERSED = "The mask hides the past and shows the future: which triangle is it?"
MASK_DIAGONAL = "The mask is one diagonal off: does a token see itself, and no token after it?"
NOT_CAUSAL_HERE = "This class comes before the causal mask: every token sees every token."
SUM_TO_ONE = (
    "The same token, repeated, should come out unchanged at every place. Do the weights of a row "
    "add up to 1 (mask before softmax), and do heads and tokens keep their places?"
)
VIEW_WITHOUT_TRANSPOSE = (
    "Heads and tokens got mixed: a view alone keeps the order in memory. Which two dimensions must "
    "change places after splitting?"
)
MERGE_WITHOUT_TRANSPOSE = (
    "Heads and tokens got mixed on the way back. Undo the steps of splitting in reverse order."
)
HEADS_NOT_SPLIT = "This is what a single head computes. Where is the width split among heads?"
HEADS_INTERLEAVED = "A head should take neighbouring columns; look at the order of view's numbers."
NO_OUT_PROJ = "The heads are right. What does the book do with them after joining?"
BATCH_MIXED = "One sequence of the batch changes another. Which operation runs over dimension 0?"
MASK_LENGTH = "A sequence may be shorter than context_length: cut the mask to its length."
DIVISIBLE = "Refuse, with an error, a width that the heads can't share evenly."
QKV_BIAS = "See where qkv_bias goes."

# Chapter 4
BIASED_VARIANCE = "The sum of squares is divided by n - 1. Which variance does the book take here?"
EPS = "What keeps a row of equal numbers from dividing by 0, and where in the formula does it go?"
NORM_DIM = "Over which dimension are mean and variance taken? Every token stands for itself."
SCALE_AND_SHIFT = "Look at how the two trainable vectors enter after normalising."
GELU_EXACT = "This is the exact GELU; the book, like GPT-2, uses its approximation with tanh."
GELU_OTHER = "Compare term by term with the approximation in the book; which constant differs?"
NO_ACTIVATION = "Without a non-linear step in between, two linear layers are one."
EXPANSION = "How wide is the hidden layer compared with the input?"
NO_SHORTCUT = "The input is not added back. What reaches the end if a layer returns zeros?"
POST_NORM = "The normalisation comes after the addition; the book's block has it elsewhere."
NORM_ON_SHORTCUT = "The shortcut starts after the normalisation; what exactly is kept to be added?"
WRONG_NORM = "Each half of the block has a normalisation of its own."
POSITIONS = "The same token looks the same at every place. What tells the model where it is?"
POSITION_INDEX = "The position vectors are added, but not those of places 0, 1, 2, ..."
FINAL_NORM = "Something between the last block and the head is missing."
HEAD_BIAS = "The numbers differ by one vector of the size of the vocabulary: look at the head."
TIED = "The head shares the embedding's matrix, as GPT-2 does; the book keeps two. No fault."
BLOCKS = "Is the block made n_layers times, each with weights of its own?"
LAST_POSITION = "Which position's logits say what comes next?"
CROP_MISSING = "The model was given more tokens than context_size. What may it see at most?"
CROP_WRONG_END = "When the text is too long for the model, which end of it matters?"
PROMPT_LOST = "The result should begin with the ids that were given, then the new ones in order."
ARGMAX_DIM = "Choose over the vocabulary, once for each row of the batch."
NEW_TOKENS = "Count the turns of the loop."

# Chapter 5
BATCH_DIM = "A model expects a batch: one dimension more than a list of ids."
LOSS_SUM = "The losses are added up; the book's number does not grow with the batch."
LOSS_DIM = "Classes must be the last dimension after flattening. Which dimensions may be merged?"
LOSS_SOFTMAX = "cross_entropy wants raw scores and takes the softmax itself."
LOSS_LAST_ONLY = "Every position predicts its next token, so every position has a loss."
LOSS_SHIFTED_TWICE = "The loader has shifted the targets already."
LOSS_SWAPPED = "What is predicted, and from what?"
LOADER_DIVISOR = "By how many batches is the sum divided, and how many were added up?"
LOADER_NUM_BATCHES = "See what num_batches does, and what if it is above the number of batches."
LOADER_LAST = "Only the loss of one batch came out; where is the sum kept?"
EVAL_MODE = "Dropout was at work while evaluating. Which call switches it off?"
TRAIN_MODE = "After an evaluation, the model should be in training mode again."
NO_GRAD = "Evaluating should build no graph; see what the book wraps it in."
SWAPPED_LOADERS = "Look at the order of the two results."
NO_ZERO_GRAD = "Gradients of earlier batches are still there. What comes before backward?"
TRAINING_STEP = "One step of the loop is missing, doubled, or out of place."
NO_STEP = "The parameters do not change. What comes after backward?"
EPOCHS = "Count how often the loop goes over the loader."
TOKENS_SEEN = "The counter should grow by the tokens of each batch, rows times columns."
TEMPERATURE_INVERTED = "A higher temperature should make the choice more even, not less."
TEMPERATURE_IGNORED = "See where temperature enters, before the softmax."
TOP_K = "Tokens outside the k likeliest were chosen. What happens to their logits before softmax?"
TOP_K_AXIS = "The k likeliest of what? Look at the dimension in which top-k is taken."
EOS = "When the end token is chosen, the loop should end."

# Chapter 6
UNPACKED = "The archive holds the file under a name of its own. Where is it after unpacking?"
FETCHED_AGAIN = "What should happen first when data_file_path is already there?"
BALANCE = "Count the rows of each label before and after. How many of the more common one are kept?"
REPLACEMENT = "A row was drawn twice. Can a row be drawn again after it was taken?"
SPLIT_ENDS = "Write down where each part begins and ends; the second end counts from row 0 as well."
SPLIT_LOSES = "The parts together have more or fewer rows than the data. Where does each one begin?"
SPLIT_ORDER = "The sizes are right, but belong to the wrong parts. Which part is returned first?"
SPLIT_LEAKS = "Some rows are in two parts and others in none, so the test tests nothing."
SPLIT_UNMIXED = "The data may be sorted by label. What comes before cutting it into parts?"
SPLIT_SEED = (
    "That is not a fault, but a test row of today may be a training row tomorrow. What makes "
    "random numbers repeatable?"
)
PADDED_LENGTH = "Print the lengths of all rows. To which length should a short message grow?"
PADDED_LEFT = "The padding comes before the message. At which end does the book add it?"
PADDING_IDS = "Compare the ids after the message with pad_token_id."
NOT_CUT = "A message longer than max_length keeps its length."
CUT_WRONG_END = "A long message loses its beginning; which end does the book cut off?"
MAX_LENGTH_IGNORED = "The length of a row should be the max_length that was given, if one was."
LABELS = "Compare labels and messages row by row. From which column does the label come?"
ROWS_COUNTED = "See what __len__ counts: one item per row of the file, without its header."
CLASS_POSITION = "A class is read at one place of the row. Which token has seen all the others?"
CLASS_FIRST = "The class is read at the first token, which has seen nothing but itself."
CLASS_POOLED = "The scores of all places are mixed; the book reads them at a single one."
CLASSES_SWAPPED = "The answers are the wrong way round. Which number stands for spam?"
CLASS_NAMES = 'The book returns one of two texts, "spam" or "not spam".'
ACCURACY_BATCHES = "A short batch weighs as much as a full one. What should be counted, and summed?"
ACCURACY_PERCENT = "The share should be between 0 and 1; percentages are for printing."
LABELS_INVERTED = "This is the loss for the opposite labels."
HEAD_CUT_OFF = "The new head does not learn. Is it cut off from the loss, or frozen on the way?"
BODY_CUT_OFF = "Only the head learns. What cuts the layers before it off from the loss?"
FROZEN = "A frozen layer has changed. Does the training function touch requires_grad?"
ACCURACIES_KEPT = "Losses are measured every eval_freq steps; see when accuracies are."
EXAMPLES_SEEN = "The counter should grow by the rows of each batch, not by its tokens or by 1."
CURVES = "Look at what is passed to plot: epochs and values, one pair for each of the two curves."

# Chapter 7
FILE_KEPT = "After a download the file should be at file_path, and be read from there."
PARSED = "The result should be the parsed JSON, here a list of dicts, not its text."
HEADINGS = "Each part follows its heading on a line of its own. Print the prompt and compare."
EMPTY_INPUT = "An entry without an input should have no section for one. What decides that?"
ANSWER_GIVEN_AWAY = "The prompt shows the answer that the model should give."
PROMPT_TEXT = (
    "That is not a fault: a model learns any prompt. The book's figures come from its own wording."
)
RESPONSE_MISSING = "The ids end where the answer should begin. What is the model to learn from?"
RESPONSE_HEADING = "The heading of the response is missing between prompt and answer."
PROMPT_MISSING = "The ids have the answer without its prompt."
PADDING_LEARNED = "Padding counts in the loss. Which targets should be ignored?"
END_MASKED = "The first padding id after a text marks its end. Should the model learn that?"
TRUNCATION = "See where allowed_max_length cuts, inputs and targets alike."
RUNNING = "Compare the name with those of all processes; does the loop end after the first one?"
REPLY_PIECES = "The reply comes in pieces, one line of JSON each. Where are they joined?"
MODEL_NAMED = "See where the name of the model goes in the question."
PROMPT_SENT = "The prompt should be the content of a message whose role is user."
REPEATABLE = (
    "That is not a fault, but scores then change from run to run. Which options does the book send?"
)
JUDGE_ANSWER = "The judge is not shown the answer to grade. Which key holds it?"
JUDGE_REFERENCE = "The judge is not shown the right answer to compare with."
JUDGE_TASK = "The judge is not told what the task was."
SCORES = "Each score should be a whole number, one for each reply, in the order of the data."
UNREADABLE_SCORE = "Some replies are not numbers. What does the loop do when int() fails?"
MODEL_PASSED_ON = "The question went to another model than the one that was asked for."

# Chapter 7, exercises
PHI_MARKS = "Compare the marks with Phi-3's: one for the user, on a line before the text."
PHI_ANSWER = "The answer should follow the mark of the assistant."
INSTRUCTION_LENGTH = "Count the ids of the instruction alone, without the response."
INSTRUCTION_LEARNED = "Targets that belong to the instruction should be ignored."
INSTRUCTION_OFF_BY_ONE = (
    "Targets are one place ahead of inputs. Which target is the first of the response?"
)

# Chapter 7, preferences
PAIR_TEXTS = "Both texts hold the prompt and one of the two answers. Decode them and look."
PAIR_ALIKE = "Chosen and rejected text are the same."
PROMPT_COUNTED = "The prompt counts in the mask, although mask_prompt_tokens is set."
PROMPT_LEFT_OUT = "Without mask_prompt_tokens the prompt should count like the answer."
PADDING_COUNTED = "Padding counts in the mask. Where does each text end?"
ANSWER_MASKED = "Tokens of the answer do not count. Where does the answer begin?"
LOGPROB_NOT_SHIFTED = "Each token is compared with the scores at its own place. Which predict it?"
LOGPROB_SIGN = "A log-probability is never above 0."
LOGPROB_SUM = "The sum grows with the length of the answer; the book takes the mean."
MASK_IGNORED = "The mask changes nothing. Where is it multiplied, and what is then divided by?"
MASK_NOT_SHIFTED = "The mask is one place off. Which tokens are left once the first is dropped?"
MASK_DIVISOR = "The mean divides by all tokens. How many of them count?"
DPO_SIGN = "The loss falls when the rejected answer becomes likelier. Follow the signs."
DPO_BETA = "See where beta enters, and what it multiplies."
DPO_REFERENCE = "What is the model compared with? The reference takes no part in the loss."
DPO_SIGMOID = "Compare with the formula: which function is around beta times the difference?"
DPO_MEAN = "The losses of the pairs become one number; see how."
REWARDS = "The reward of an answer: how much likelier has the model made it?"
REWARDS_SCALED = (
    "That is not a fault: these rewards include beta, like the paper's, not the book's."
)
PAIR_SWAPPED = "Chosen and rejected are swapped somewhere."
MODELS_SWAPPED = "Policy and reference are swapped somewhere."
REFERENCE_GRAPH = "That is not a fault, but the reference never learns: what spares it a graph?"
TRACKED = "Later code reads these names, for example to plot them."

# Appendix A
LOGITS = "The network should return raw scores; softmax belongs to the loss."
ACTIVATIONS = "Look at the order of linear layers and activations, and at what the last one is."
ACCURACY = "Count the right answers, then divide by the number of examples, not of batches."

# Appendix D
HIGHEST = "Go over .grad of every parameter, and keep the largest number found so far."
HIGHEST_WEIGHT = "That is the largest weight. Where does backward leave the gradients?"
HIGHEST_SMALLEST = "That is the smallest number of all gradients; which way round is it compared?"
HIGHEST_START = "All gradients are negative here. What is the first one compared with?"
HIGHEST_LATE_SIGN = "The sign is dropped only after the comparison. When should it be dropped?"
HIGHEST_SIGN = (
    "That is not a fault: like the book's function, yours compares with the sign, so it misses a "
    "large negative gradient."
)
HIGHEST_NONE = "A layer that took no part in the loss has None for a gradient; pass over it."
HIGHEST_CHANGED = "Looking at gradients should not change them. Which call works in place?"
RATE_NOT_SET = "The optimizer keeps its first rate. Where does it look up the rate of a step?"
RATE_LATE = "Each rate comes one step late. What must happen before optimizer.step()?"
RATE_GROUPS = "An optimizer may have several groups of parameters, each with a rate of its own."
RATES_TOLD = "The returned rates should be those that the steps used, in order."
RATE_REPAIRED = (
    "That is not a fault: your schedule reaches its ends one step earlier. The book's is at the "
    "peak right after warm-up, and just above min_lr at the last step."
)
NO_WARMUP = "The first warmup_steps rates should rise towards the peak, by equal amounts."
INITIAL_LR = "At which rate does warm-up start? See where initial_lr goes."
WARMUP = "Write down the rates of warm-up by hand: the first, the last, and how far apart two are."
STEP_COUNT = (
    "The schedule is one step off. What is the number of the first step, and when is 1 added?"
)
COSINE = (
    "How far has the decay come at its first step, and at its last? Try cos(pi * 0), cos(pi * 1)."
)
COSINE_UP = "The cosine goes up instead of down. What is its factor at the start, and at the end?"
MIN_LR = "The decay ends at the wrong rate. Put the last step into the formula: what remains?"
COSINE_LENGTH = (
    "Over which steps does the cosine stretch? It leaves out warm-up, but covers all epochs."
)
NO_DECAY = "The rate stays at the peak. What changes it once warm-up is over?"
NO_CLIP = "Gradients reach the optimizer unclipped. Between which two calls should they be clipped?"
CLIP_LATE = "Gradients are clipped only after the step has used them."
CLIP_NORM = "Gradients are clipped, but not to a norm of 1 taken over all parameters together."
CLIP_WHEN = "Gradients are clipped at the wrong steps. Look at the condition."

# Appendix E
LORA_MATRICES = "Two matrices learn, as nn.Parameter: one with rank columns, one with rank rows."
LORA_START = "At first, LoRA should change nothing. Which of the two matrices starts at zero?"
LORA_STUCK = "With both matrices at zero, neither ever gets a gradient. One must start at random."
LORA_A_START = "All columns of A are equal, so all ranks learn the same. Draw A at random."
LORA_SWAPPED = (
    "That is not a fault: either matrix may start at zero. In the book it is B, and A is random."
)
ALPHA_MISSING = "The product of the matrices is right; see where alpha enters."
ALPHA_RANK = "alpha and rank both scale the result, but not like this: which one divides?"
ALPHA_ALONE = (
    "That is not a fault: the book's first printing also multiplies by alpha alone. Later ones "
    "divide it by the rank, so that the change is about equally large for any rank."
)
LORA_PRODUCT = "Follow the shapes: from in_dim to rank, then from rank to out_dim."
LORA_UNUSED = "The result is the linear layer's alone. What should be added to it?"
LINEAR_UNUSED = "The result is LoRA's alone. What does the linear layer contribute?"
LORA_SUM = "Compare term by term with the linear layer's output plus that of LoRA."
LINEAR_BIAS = "The result lacks the linear layer's bias. Where is it added?"
LINEAR_NEW = "The result is not the given layer's. Is that layer kept, or a new one made?"
LINEAR_UNFROZEN = (
    "A frozen weight learns again. Is the layer kept as it is, or made again from its weights?"
)
REPLACED_NONE = (
    "The model itself should change. Is the new layer set as an attribute of its parent?"
)
REPLACED_TOP = "Only the outermost layers were replaced. What about those inside other modules?"
REPLACED_AGAIN = "The new layer contains a linear layer, too, which must not be replaced in turn."
REPLACED_HEAD = "The output layer is a linear layer as well."
RANK_ALPHA = "Are rank and alpha both passed on, and in the right order?"
REPLACED_CHANGED = "Right after the replacement the model should compute what it did before."

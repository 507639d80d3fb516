/** Models by the names of the published scripts, `family:kind`. */
const kinds: Readonly<Record<string, string>> = {
  "llama2:7b": "meta-llama/Llama-2-7b-hf",
  "llama2:7b-chat": "meta-llama/Llama-2-7b-chat-hf",
  "llama2:13b": "meta-llama/Llama-2-13b-hf",
  "llama2:13b-chat": "meta-llama/Llama-2-13b-chat-hf",
  "llama2:70b": "meta-llama/Llama-2-70b-hf",
  "llama2:70b-chat": "meta-llama/Llama-2-70b-chat-hf",
  "llama3:8b": "meta-llama/Meta-Llama-3-8B",
  "llama3:8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
  "llama3:70b": "meta-llama/Meta-Llama-3-70B",
  "llama3:70b-instruct": "meta-llama/Meta-Llama-3-70B-Instruct",
  "mistral:7b": "mistralai/Mistral-7B-v0.1",
  "mistral:7b-instruct": "mistralai/Mistral-7B-Instruct-v0.2",
  "mixtral:8x22b": "mistralai/Mixtral-8x22B-v0.1",
  "mixtral:8x22b-instruct": "mistralai/Mixtral-8x22B-Instruct-v0.1",
  "qwen2:7b-instruct": "Qwen/Qwen2-7B-Instruct",
};

/** A model's name on the hub; any other name is taken as it is. */
export const modelOfKind = (name: string): string => (Object.hasOwn(kinds, name) ? kinds[name]! : name);

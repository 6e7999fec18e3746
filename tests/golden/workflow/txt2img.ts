// A workflow file as users of TypeScript endpoints write them; ours, for tests of its draft.
import { z } from "zod";
import { ComfyPrompt, Workflow } from "../types";
import config from "../config";

const checkpoint = config.models.checkpoints.enum.optional();

const RequestSchema = z.object({
  prompt: z.string().describe("What the picture shows"),
  negative_prompt: z.string().optional().default("text, watermark").describe('Not "this"'),
  width: z.number().int().min(256).max(2048).optional().default(512).describe("Pixels"),
  seed: z
    .number()
    .int()
    .optional()
    .default(() => Math.floor(Math.random() * 100000000000))
    .describe("Start of the noise"),
  cfg_scale: z.number().min(0).max(20).optional().default(8),
  sampler_name: config.samplers.optional().default("euler"),
  scheduler: config.schedulers.default("normal"),
  mode: z.enum(["fast", 'good']).default("fast"),
  tags: z.array(z.string()).default([]),
  checkpoint,
});

type InputType = z.infer<typeof RequestSchema>;

function generateWorkflow(input: InputType): ComfyPrompt {
  return {
    "3": {
      inputs: {
        seed: input.seed,
        steps: 20, // enough
        cfg: input.cfg_scale,
        sampler_name: input.sampler_name,
        scheduler: input.scheduler,
        denoise: 1,
        model: ["4", 0],
        positive: ["6", 0],
        negative: ["7", 0],
        latent_image: ["5", 0],
      },
      class_type: "KSampler",
      _meta: { title: "KSampler" },
    },
    "4": { inputs: { ckpt_name: input.checkpoint }, class_type: "CheckpointLoaderSimple" },
    "5": { inputs: { width: input.width, height: 512, batch_size: 1 }, class_type: "EmptyLatentImage" },
    "6": { inputs: { text: `${input.prompt}, {sharp}`, clip: ["4", 1] }, class_type: "CLIPTextEncode" },
    "7": { inputs: { text: input.negative_prompt, clip: ["4", 1] }, class_type: "CLIPTextEncode" },
  } as ComfyPrompt;
}

const workflow: Workflow = {
  RequestSchema,
  generateWorkflow,
  summary: "Text to image",
  description: "One picture of a text",
};

export default workflow;
